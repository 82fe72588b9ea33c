"""Administrators: who they are, what their roles let them do, and for which authorities and templates.

Separation of duties: whoever configures does not issue, and whoever audits does nothing else. An administrator is known
by a client certificate; a role is given and taken on the server's own command line only, never over the network.
"""

from __future__ import annotations

import enum
import hashlib
import re
from collections.abc import Callable, Iterable
from datetime import datetime

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.consent import UNASKED, Consent
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.unreadable import UNREADABLE
from pkiserver.registration.adminalterations import DELETED, DIGEST, standing_digest
from pkiserver.registration.votes import Person
from pkiserver.store import certificates
from pkiserver.store.certificates import CertificateState
from pkiserver.store.database import Database
from pkiserver.store.registration import administrators as rows
from pkiserver.store.registration.administrators import AdministratorCertificate, AdministratorRow

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")


class Permission(enum.StrEnum):
    """Something that can be done; every operation of the management interface needs one."""

    READ_CERTIFICATES = "read-certificates"
    CHANGE_CERTIFICATES = "change-certificates"
    READ_REQUESTS = "read-requests"
    DECIDE_REQUESTS = "decide-requests"
    READ_CHALLENGES = "read-challenges"
    MAKE_CHALLENGES = "make-challenges"
    READ_SEATS = "read-seats"
    CHANGE_SEATS = "change-seats"
    READ_ACCOUNTS = "read-accounts"
    CHANGE_ACCOUNTS = "change-accounts"
    READ_CONFIGURATION = "read-configuration"
    READ_OPERATIONS = "read-operations"
    ASK_OPERATIONS = "ask-operations"
    DECIDE_OPERATIONS = "decide-operations"
    CONFIGURE = "configure"
    READ_ADMINISTRATORS = "read-administrators"
    READ_AUDIT = "read-audit"


class Role(enum.StrEnum):
    """What an administrator is."""

    ADMINISTRATOR = "administrator"
    RA_OFFICER = "ra-officer"
    OPERATOR = "operator"
    AUDITOR = "auditor"


_READS = frozenset(one for one in Permission if one.value.startswith("read-"))
_REGISTRATION_READS = _READS - {Permission.READ_AUDIT, Permission.READ_ADMINISTRATORS}
PERMISSIONS: dict[Role, frozenset[Permission]] = {
    # Configures: templates and authorities, by operations that another person approves. Issues and revokes nothing.
    Role.ADMINISTRATOR: _READS | {Permission.ASK_OPERATIONS, Permission.DECIDE_OPERATIONS, Permission.CONFIGURE},
    # Registers: who may have what, and whether they still may. Agrees to what others configure, asks for none of it.
    Role.RA_OFFICER: _REGISTRATION_READS
    | {
        Permission.CHANGE_CERTIFICATES,
        Permission.DECIDE_REQUESTS,
        Permission.MAKE_CHALLENGES,
        Permission.CHANGE_SEATS,
        Permission.CHANGE_ACCOUNTS,
        Permission.ASK_OPERATIONS,
        Permission.DECIDE_OPERATIONS,
    },
    # The help desk: single certificates, challenges and devices; no decisions, no accounts, no operations.
    Role.OPERATOR: frozenset(
        {
            Permission.READ_CERTIFICATES,
            Permission.CHANGE_CERTIFICATES,
            Permission.READ_REQUESTS,
            Permission.READ_CHALLENGES,
            Permission.MAKE_CHALLENGES,
            Permission.READ_SEATS,
            Permission.CHANGE_SEATS,
        }
    ),
    Role.AUDITOR: _READS,
}
_APART = (
    (Role.ADMINISTRATOR, Role.RA_OFFICER, "who configures does not issue"),
    (Role.ADMINISTRATOR, Role.OPERATOR, "who configures does not issue"),
    (Role.AUDITOR, Role.ADMINISTRATOR, "who audits does nothing else"),
    (Role.AUDITOR, Role.RA_OFFICER, "who audits does nothing else"),
    (Role.AUDITOR, Role.OPERATOR, "who audits does nothing else"),
)


@attrs.frozen
class Administrator:
    """Somebody who manages. Empty ``authorities`` and ``templates`` mean all of them."""

    name: str
    roles: frozenset[Role]
    authorities: frozenset[str] = frozenset()
    templates: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    account: str | None = None
    disabled: bool = False
    created: datetime | None = None
    created_by: str = ""

    @property
    def actor(self) -> str:
        """As the audit log names them."""
        return f"admin:{self.name}"

    @property
    def person(self) -> Person:
        """Who votes and asks."""
        return Person(self.actor, self.groups, self.account)

    def may(self, permission: Permission) -> bool:
        """Whether one of the roles permits it."""
        return any(permission in PERMISSIONS[role] for role in self.roles)

    @property
    def scoped(self) -> bool:
        """Whether only some authorities or templates are theirs."""
        return bool(self.authorities or self.templates)

    def covers(self, *, template: str | None = None, authority: str | None = None) -> bool:
        """Whether a template, an authority, or both are within the scope."""
        return (template is None or not self.templates or template in self.templates) and (
            authority is None or not self.authorities or authority in self.authorities
        )


@attrs.frozen
class Administrators:
    """Makes, changes and recognises administrators; every change is audited."""

    database: Database
    audit: AuditLog
    clock: Clock

    async def check_new(self, new: Administrator) -> None:
        """Raise :class:`Rejected`, with every reason, where :meth:`create` would."""
        if reasons := [*_name_reasons(new.name), *_role_reasons(new.roles)]:
            raise Rejected(reasons)
        if await self.database.read(lambda connection: rows.get(connection, new.name)) is not None:
            raise Rejected.because(Refusal.CONFLICT, f"an administrator named {new.name!r} exists already")

    async def create(
        self, new: Administrator, *, by: str, shown_by: bytes | None = None, consent: Consent = UNASKED
    ) -> Administrator:
        """A new administrator.

        Args:
            new: Who.
            by: Who makes them.
            shown_by: The DER certificate that shows them from now on; None: they are known by none yet.
            consent: Of others, where they must agree.

        Raises:
            Rejected: with every reason.
        """
        if reasons := [*_name_reasons(new.name), *_role_reasons(new.roles)]:
            raise Rejected(reasons)
        made = attrs.evolve(new, created=self.clock.now(), created_by=by)
        known_by = None if shown_by is None else self._certificate(new.name, shown_by, by)

        def store(connection: Connection) -> None:
            consent.spend(connection)
            rows.insert_administrator(connection, _row(made))
            self._note(connection, made, "created", by, consent=consent)
            if known_by is not None:
                self._bind(connection, made, known_by, consent)

        await self.database.write(store)
        return made

    async def change(
        self,
        name: str,
        by: str,
        change: Callable[[Administrator], Administrator],
        *,
        what: str = "changed",
        consent: Consent = UNASKED,
    ) -> Administrator:
        """Change roles, scopes, groups, account or whether they are disabled; raises :class:`Rejected`."""

        def store(connection: Connection) -> Administrator:
            consent.spend(connection)
            changed = attrs.evolve(change(_to_change(connection, name)), name=name)
            if reasons := _role_reasons(changed.roles):
                raise Rejected(reasons)
            rows.update_administrator(connection, _row(changed))
            self._note(connection, changed, what, by, consent=consent)
            return changed

        return await self.database.write(store)

    async def delete(self, name: str, *, by: str) -> None:
        """Remove an administrator; the certificates show nobody then. Raises :class:`Rejected`."""

        def store(connection: Connection) -> None:
            found = _to_change(connection, name)
            rows.delete_administrator(connection, name)
            self._note(connection, found, DELETED, by)

        await self.database.write(store)

    async def get(self, name: str) -> Administrator:
        """The administrator of that name; raises :class:`Rejected`."""
        return await self.database.read(lambda connection: _required(connection, name))

    async def list_page(self, *, after: str = "", limit: int = 100) -> tuple[Administrator, ...]:
        """Administrators by name."""
        found = await self.database.read(lambda connection: rows.list_page(connection, after=after, limit=limit))
        return tuple(map(administrator_of, found))

    async def certificates(self, name: str) -> tuple[AdministratorCertificate, ...]:
        """The certificates by which an administrator is known."""
        return await self.database.read(lambda connection: rows.certificates_of(connection, name))

    async def bind(self, name: str, der: bytes, *, by: str, consent: Consent = UNASKED) -> bytes:
        """Let a certificate show an administrator; returns its fingerprint. Raises :class:`Rejected`."""
        new = self._certificate(name, der, by)

        def store(connection: Connection) -> None:
            consent.spend(connection)
            self._bind(connection, _to_change(connection, name), new, consent)

        await self.database.write(store)
        return new.fingerprint

    def _certificate(self, name: str, der: bytes, by: str) -> AdministratorCertificate:
        try:
            certificate = x509.load_der_x509_certificate(der)
        except UNREADABLE as error:
            raise Rejected.because(Refusal.MALFORMED, "this is not a certificate") from error
        return AdministratorCertificate(
            fingerprint=hashlib.sha256(der).digest(),
            administrator=name,
            not_after=certificate.not_valid_after_utc,
            created=self.clock.now(),
            created_by=by,
        )

    def _bind(
        self, connection: Connection, who: Administrator, new: AdministratorCertificate, consent: Consent
    ) -> None:
        rows.bind(connection, new)
        self._note(connection, who, "certificate bound", new.created_by, consent=consent, fingerprint=new.fingerprint)

    async def unbind(self, name: str, fingerprint: bytes, *, by: str) -> None:
        """Let a certificate show an administrator no more; raises :class:`Rejected`."""

        def store(connection: Connection) -> None:
            found = _to_change(connection, name)
            if not any(one.fingerprint == fingerprint for one in rows.certificates_of(connection, name)):
                raise Rejected.because(Refusal.UNKNOWN_CERTIFICATE, f"{name} is not known by this certificate")
            rows.unbind(connection, fingerprint)
            self._note(connection, found, "certificate unbound", by, fingerprint=fingerprint)

        await self.database.write(store)

    async def recognise(self, der: bytes) -> Administrator:
        """Whom a certificate shows, whose key the peer has proved to hold.

        Raises:
            Rejected: NOT_AUTHENTICATED; nobody, or nobody any more: disabled, expired, revoked, on hold.
        """
        fingerprint = hashlib.sha256(der).digest()

        def look(connection: Connection) -> tuple[AdministratorRow | None, bool]:
            own = certificates.by_fingerprint(connection, fingerprint)
            standing = own is None or own.state is CertificateState.ISSUED
            return rows.by_fingerprint(connection, fingerprint), standing

        found, standing = await self.database.read(look)
        if found is None:
            raise _nobody("the client certificate shows no administrator")
        if found.disabled:
            raise _nobody("the administrator is disabled")
        if not standing:
            raise _nobody("the client certificate is revoked or on hold")
        shown = x509.load_der_x509_certificate(der)
        if not shown.not_valid_before_utc <= self.clock.now() <= shown.not_valid_after_utc:
            raise _nobody("the client certificate is outside its validity")
        return administrator_of(found)

    def _note(
        self,
        connection: Connection,
        who: Administrator,
        what: str,
        by: str,
        *,
        consent: Consent = UNASKED,
        fingerprint: bytes | None = None,
    ) -> None:
        known_by = (one.fingerprint for one in rows.certificates_of(connection, who.name))
        details = [("change", what), ("detail", describe(who)), (DIGEST, standing_digest(_row(who), known_by))]
        if fingerprint is not None:
            details.append(("fingerprint", fingerprint.hex()))
        details += consent.details
        event = AuditEvent(AuditKind.ACCOUNT, by, f"administrator {who.name}", details=tuple(details))
        self.audit.append(connection, event)


def describe(who: Administrator) -> str:
    """Roles, scope and groups on one line."""
    parts = {
        "roles": who.roles,
        "authorities": who.authorities,
        "templates": who.templates,
        "groups": who.groups,
    }
    text = "; ".join(f"{name} {', '.join(sorted(values))}" for name, values in parts.items() if values)
    return text + ("; disabled" if who.disabled else "")


def _nobody(text: str) -> Rejected:
    return Rejected.because(Refusal.NOT_AUTHENTICATED, text)


def _to_change(connection: Connection, name: str) -> Administrator:
    """The administrator, whom no other process changes until this write ends."""
    return _required(connection, name, to_change=True)


def _required(connection: Connection, name: str, *, to_change: bool = False) -> Administrator:
    found = rows.get(connection, name, to_change=to_change)
    if found is None:
        raise Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no administrator named {name!r}")
    return administrator_of(found)


def _name_reasons(name: str) -> list[Reason]:
    if _NAME.fullmatch(name):
        return []
    text = "an administrator's name is 1 to 63 of letters, digits, '.', '_', '@' and '-'"
    return [Reason(Refusal.MALFORMED, text)]


def _role_reasons(roles: Iterable[Role]) -> list[Reason]:
    held = frozenset(roles)
    if not held:
        return [Reason(Refusal.MALFORMED, f"give at least one role of {', '.join(Role)}")]
    return [
        Reason(Refusal.CONFLICT, f"{one} and {other} do not go together: {why}")
        for one, other, why in _APART
        if {one, other} <= held
    ]


def _row(who: Administrator) -> AdministratorRow:
    assert who.created is not None
    return AdministratorRow(
        name=who.name,
        roles=tuple(sorted(who.roles)),
        authorities=who.authorities,
        templates=who.templates,
        groups=who.groups,
        account=who.account,
        disabled=who.disabled,
        created=who.created,
        created_by=who.created_by,
    )


def administrator_of(row: AdministratorRow) -> Administrator:
    """An administrator from the row."""
    return Administrator(
        name=row.name,
        roles=frozenset(map(Role, row.roles)),
        authorities=row.authorities,
        templates=row.templates,
        groups=row.groups,
        account=row.account,
        disabled=row.disabled,
        created=row.created,
        created_by=row.created_by,
    )
