"""Accounts of requesters: who may enrol with a name and a password, in which groups, with which attributes."""

from __future__ import annotations

import re
from typing import Any

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.registration.codeform import canonical
from pkiserver.registration.departures import delete_account
from pkiserver.registration.passwords import MAX_PASSWORD_BYTES, PasswordHasher
from pkiserver.store.database import Database
from pkiserver.store.registration import accounts as rows
from pkiserver.store.registration.accounts import Account

MINIMUM_PASSWORD = 12
"""Characters; what guesses per second the password pool allows makes shorter ones guessable."""
MAX_GROUP = 256
_NAME = re.compile(r"[^\s:/\x00-\x1f\x7f][^:\x00-\x1f\x7f]{0,255}")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")


@attrs.frozen
class Accounts:
    """Creates, changes and removes accounts; every change is audited."""

    database: Database
    audit: AuditLog
    hasher: PasswordHasher
    clock: Clock

    async def create(
        self,
        name: str,
        password: Secret | None,
        *,
        groups: frozenset[str] = frozenset(),
        attributes: tuple[tuple[str, str], ...] = (),
        by: str,
    ) -> Account:
        """A new account; without a password it can only be found through its certificates.

        Raises:
            Rejected: with every reason; the name is taken, or name, password, groups or attributes will not do.
        """
        if reasons := account_reasons(name, groups, attributes, password):
            raise Rejected(reasons)
        hashed = await self.hasher.hash(password) if password is not None else None
        account = Account(name, hashed, groups, attributes, disabled=False, created=self.clock.now())

        def store(connection: Connection) -> None:
            rows.insert_account(connection, account)
            self.audit.append(connection, _event("created", name, by))

        await self.database.write(store)
        return account

    async def set_password(self, name: str, password: Secret, *, by: str) -> None:
        """A new password; raises :class:`Rejected`."""
        await self.change(name, password=password, by=by)

    async def set_disabled(self, name: str, disabled: bool, *, by: str) -> None:
        """Disable or enable; a disabled account's certificates do not show anybody either."""
        await self.change(name, disabled=disabled, by=by)

    async def set_details(
        self, name: str, *, groups: frozenset[str] | None, attributes: tuple[tuple[str, str], ...] | None, by: str
    ) -> None:
        """Replace groups or attributes, where given."""
        await self.change(name, groups=groups, attributes=attributes, by=by)

    async def change(
        self,
        name: str,
        *,
        password: Secret | None = None,
        groups: frozenset[str] | None = None,
        attributes: tuple[tuple[str, str], ...] | None = None,
        disabled: bool | None = None,
        by: str,
    ) -> Account:
        """Change what is given, all of it or nothing; the account as it is then.

        Raises:
            Rejected: with every reason; there is no such account, or the password or the attributes will not do.
        """
        reasons = [
            *_group_reasons(groups or frozenset()),
            *attribute_reasons(attributes or ()),
            *(_password_reasons(password) if password is not None else ()),
        ]
        if reasons:
            raise Rejected(reasons)
        await self.get(name)  # nothing is hashed for one that is not there
        told = {
            "password set": password is not None,
            "changed": groups is not None or attributes is not None,
            "disabled": disabled is True,
            "enabled": disabled is False,
        }
        given: dict[str, Any] = {"groups": groups, "attributes": attributes, "disabled": disabled}
        if password is not None:
            given["password_hash"] = await self.hasher.hash(password)
        new = {field: value for field, value in given.items() if value is not None}

        def store(connection: Connection) -> Account:
            found = rows.get(connection, name, to_change=True)
            if found is None:
                raise _unknown(name)
            changed = attrs.evolve(found, **new)
            if new:
                rows.update_account(connection, changed)
                what = ", ".join(one for one, is_so in told.items() if is_so)
                self.audit.append(connection, _event(what, name, by))
            return changed

        return await self.database.write(store)

    async def delete(self, name: str, *, by: str) -> None:
        """Remove an account; its certificates stay what they are, its seats are archived.

        Raises:
            Rejected: there is none.
        """

        def remove(connection: Connection) -> None:
            if not delete_account(connection, self.audit, name, by=by, now=self.clock.now()):
                raise _unknown(name)
            self.audit.append(connection, _event("deleted", name, by))

        await self.database.write(remove)

    async def get(self, name: str) -> Account:
        """The account of that name; raises :class:`Rejected`."""
        found = await self.database.read(lambda connection: rows.get(connection, name))
        if found is None:
            raise _unknown(name)
        return found

    async def list_page(self, *, after: str = "", limit: int = 100) -> tuple[Account, ...]:
        """Accounts by name."""
        return await self.database.read(lambda connection: rows.list_page(connection, after=after, limit=limit))


def account_reasons(
    name: str, groups: frozenset[str], attributes: tuple[tuple[str, str], ...], password: Secret | None
) -> tuple[Reason, ...]:
    """Everything because of which such an account cannot be."""
    of_password = _password_reasons(password) if password is not None else []
    return (*_name_reasons(name), *_group_reasons(groups), *attribute_reasons(attributes), *of_password)


def _unknown(name: str) -> Rejected:
    return Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no account named {name!r}")


def _event(what: str, name: str, by: str) -> AuditEvent:
    return AuditEvent(
        kind=AuditKind.ACCOUNT,
        actor=by,
        object=f"account {name}",
        details=(("change", what),),
    )


def _name_reasons(name: str) -> list[Reason]:
    if _NAME.fullmatch(name):
        return []
    text = "a name has 1 to 256 characters, no colon (HTTP Basic cannot carry one) and no control characters"
    return [Reason(Refusal.MALFORMED, text)]


def _group_reasons(groups: frozenset[str]) -> list[Reason]:
    allowed = "1 to 256 printable characters, no semicolon, no space at either end"
    return [
        Reason(Refusal.MALFORMED, f"{name!r} cannot be a group's name: {allowed}")
        for name in sorted(groups)
        if not 0 < len(name) <= MAX_GROUP or not name.isprintable() or ";" in name or name != name.strip()
    ]


def _password_reasons(password: Secret) -> list[Reason]:
    octets = password.reveal()
    reasons = []
    try:
        characters = len(octets.decode())
    except UnicodeDecodeError:
        return [Reason(Refusal.MALFORMED, "a password is text in UTF-8, as clients send it")]
    if characters < MINIMUM_PASSWORD:
        reasons.append(Reason(Refusal.MALFORMED, f"a password has at least {MINIMUM_PASSWORD} characters"))
    if len(octets) > MAX_PASSWORD_BYTES:
        reasons.append(Reason(Refusal.MALFORMED, f"a password has at most {MAX_PASSWORD_BYTES} octets"))
    if canonical(password) is not None:
        reasons.append(Reason(Refusal.MALFORMED, "a password must not look like an enrolment code"))
    return reasons


def attribute_reasons(attributes: tuple[tuple[str, str], ...]) -> list[Reason]:
    """Why attributes cannot have these names."""
    return [
        Reason(Refusal.MALFORMED, f"{key!r} cannot be an attribute's name: letters, digits, hyphens, underscores")
        for key, _ in attributes
        if not _KEY.fullmatch(key)
    ]
