"""Bring accounts in line with a file: what would change is shown first, then made, all or nothing.

An import adds and updates: what the file says of an account is set, what it does not mention stays. With ``replace``
the accounts become exactly what the file says: others are removed, and so are attributes and groups that it does not
give. A password stays where the file gives none.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.registration.accountfiles import Imported
from pkiserver.registration.departures import delete_account
from pkiserver.registration.passwords import PasswordHasher
from pkiserver.store.database import Database
from pkiserver.store.registration import accounts as rows
from pkiserver.store.registration.accounts import Account

PAGE = 1000


@attrs.frozen
class AccountChange:
    """An account that will be added (``before`` None), removed (``after`` None) or changed."""

    before: Account | None
    after: Account | None

    @property
    def name(self) -> str:
        """Whose."""
        account = self.after or self.before
        assert account is not None
        return account.name

    @property
    def what(self) -> str:
        """``add``, ``remove`` or ``change``."""
        if self.before is None:
            return "add"
        return "remove" if self.after is None else "change"

    def difference(self) -> tuple[str, ...]:
        """A line for each thing that goes (``-``) and comes (``+``)."""
        before, after = _lines(self.before), _lines(self.after)
        gone = tuple(f"- {line}" for line in before if line not in after)
        new = tuple(f"+ {line}" for line in after if line not in before)
        return (*gone, *new, *self._password())

    def _password(self) -> tuple[str, ...]:
        hashed = None if self.after is None else self.after.password_hash
        if hashed is None or (self.before is not None and self.before.password_hash == hashed):
            return ()
        return ("+ a password",) if self.before is None else ("+ a new password",)


@attrs.frozen
class ImportPlan:
    """What an import would do; ``unchanged`` counts the accounts of the file that are as they should be."""

    changes: tuple[AccountChange, ...]
    unchanged: int


@attrs.frozen
class AccountImport:
    """Plans and makes imports."""

    database: Database
    audit: AuditLog
    hasher: PasswordHasher
    clock: Clock

    async def plan(self, wanted: Iterable[Imported], *, replace: bool = False) -> ImportPlan:
        """Compare a file's accounts with the database; passwords in the clear are hashed here, which takes its time."""
        now = {account.name: account for account in await self.everybody()}
        changes: list[AccountChange] = []
        unchanged = 0
        named = set()
        for one in wanted:
            named.add(one.name)
            before = now.get(one.name)
            after = await self._after(before, one, replace=replace)
            if before is not None and attrs.evolve(after, attributes=_sorted(after)) == attrs.evolve(
                before, attributes=_sorted(before)
            ):
                unchanged += 1
            else:
                changes.append(AccountChange(before, after))
        if replace:
            changes += [AccountChange(account, None) for name, account in now.items() if name not in named]
        return ImportPlan(tuple(changes), unchanged)

    async def apply(self, plan: ImportPlan, *, by: str) -> None:
        """Make the changes and audit each, in one transaction.

        Raises:
            Rejected: somebody else changed one of the accounts since the plan was made; nothing is changed.
            Unavailable: the database cannot be written.
        """

        def work(connection: Connection) -> None:
            for change in plan.changes:
                if rows.get(connection, change.name, to_change=True) != change.before:
                    text = f"account {change.name!r} was changed meanwhile; look at it again"
                    raise Rejected.because(Refusal.CONFLICT, text)
                if change.after is None:
                    delete_account(connection, self.audit, change.name, by=by, now=self.clock.now())
                elif change.before is None:
                    rows.insert_account(connection, change.after)
                else:
                    rows.update_account(connection, change.after)
                details = (("change", f"import: {change.what}"),)
                event = AuditEvent(AuditKind.ACCOUNT, by, f"account {change.name}", details=details)
                self.audit.append(connection, event)

        if plan.changes:
            await self.database.write(work)

    async def everybody(self) -> tuple[Account, ...]:
        """All accounts, by name."""
        found: list[Account] = []
        while True:
            after = found[-1].name if found else ""
            page = await self.database.read(partial(rows.list_page, after=after, limit=PAGE))
            found += page
            if len(page) < PAGE:
                return tuple(found)

    async def export(self, *, by: str) -> tuple[Account, ...]:
        """All accounts; audited."""
        found = await self.everybody()
        details = (("count", str(len(found))),)
        await self.audit.record(AuditEvent(AuditKind.EXPORT, by, "accounts", details=details))
        return found

    async def _after(self, before: Account | None, one: Imported, *, replace: bool) -> Account:
        hashed = await self._hash(before, one)
        if before is None:
            groups = one.groups or frozenset()
            return Account(one.name, hashed, groups, one.attributes, bool(one.disabled), self.clock.now())
        given = {key for key, _ in one.attributes}
        kept = () if replace else tuple(pair for pair in before.attributes if pair[0] not in given)
        absent: frozenset[str] = frozenset() if replace else before.groups
        return attrs.evolve(
            before,
            password_hash=hashed,
            groups=absent if one.groups is None else one.groups,
            attributes=(*kept, *one.attributes),
            disabled=(False if replace else before.disabled) if one.disabled is None else one.disabled,
        )

    async def _hash(self, before: Account | None, one: Imported) -> str | None:
        old = None if before is None else before.password_hash
        if one.password_hash is not None:
            return one.password_hash
        if one.password is None or (old is not None and await self.hasher.verify(old, one.password)):
            return old
        return await self.hasher.hash(one.password)


def _sorted(account: Account) -> tuple[tuple[str, str], ...]:
    """By name; the order of one name's values counts."""
    return tuple(sorted(account.attributes, key=lambda pair: pair[0]))


def _lines(account: Account | None) -> tuple[str, ...]:
    if account is None:
        return ()
    groups = tuple(f"group {name}" for name in sorted(account.groups))
    return (*groups, *(f"{key} = {value}" for key, value in account.attributes), *(["disabled"] * account.disabled))
