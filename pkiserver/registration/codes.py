"""One-time enrolment codes: made by an officer, bound to template, subject and names, spent on one certificate.

The subject and the names that a code was made for decide what the certificate says; the client supplies only its key
(a code that anybody's CSR can use is the weakness of CERT VU#971035).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.templates.model import EvidenceKind, Template
from pkiserver.authority.templates.sankinds import SanError, make
from pkiserver.authority.templates.sankinds import SanKind as TemplateSanKind
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.registration.codeform import canonical, keyed_hash, new_code
from pkiserver.store import secrets as server_secrets
from pkiserver.store.database import Database
from pkiserver.store.names import San, SanKind, sans_of
from pkiserver.store.registration import codes as rows
from pkiserver.store.registration.codes import Code

HASH_KEY_NAME = "enroll-codes"
MAXIMUM_LIFETIME = timedelta(days=366)
_BACK = {
    SanKind.DNS: TemplateSanKind.DNS,
    SanKind.EMAIL: TemplateSanKind.MAIL,
    SanKind.URI: TemplateSanKind.URI,
    SanKind.IP: TemplateSanKind.IP,
    SanKind.DIRECTORY: TemplateSanKind.DIRECTORY,
    SanKind.REGISTERED: TemplateSanKind.REGISTERED_ID,
    SanKind.UPN: TemplateSanKind.UPN,
}


def takes_codes(template: Template) -> bool:
    """Whether one of the template's rules asks for a code."""
    return any(EvidenceKind.CODE in rule.all for rule in template.evidence)


def template_with_codes(template: Template) -> str:
    """The name of a template that takes codes; raises :class:`Rejected` for one by which a code would never count."""
    if not takes_codes(template):
        text = f'no rule of template {template.name} takes an enrolment code ([[evidence]] all = ["code"])'
        raise Rejected.because(Refusal.CONFLICT, text)
    return template.name


def parse_san(text: str) -> x509.GeneralName:
    """A name from ``kind:value``, such as ``dns:host.example.org`` or ``mail:a@example.org``.

    Raises:
        Rejected: the kind or the value is not one.
    """
    kind, colon, value = text.partition(":")
    kinds = {one.value for one in _BACK.values()}
    if not colon or kind not in kinds:
        raise Rejected.because(Refusal.BAD_NAME, f"{text!r} is not KIND:VALUE (allowed kinds: {', '.join(kinds)})")
    try:
        return make(TemplateSanKind(kind), value, wildcard=True)
    except SanError as error:
        raise Rejected.because(Refusal.BAD_NAME, f"{value!r} {error}") from error


def parse_subject(text: str) -> x509.Name:
    """A subject from RFC 4514 text; raises :class:`Rejected`, also for an empty one, which binds a code to nobody."""
    try:
        found = x509.Name.from_rfc4514_string(text)
    except ValueError as error:
        raise Rejected.because(Refusal.BAD_SUBJECT, f"{text!r} is not a distinguished name (RFC 4514)") from error
    if not found.rdns:
        raise Rejected.because(Refusal.BAD_SUBJECT, "the subject is empty: leave it out, and a request may ask for any")
    return found


@attrs.frozen
class CodeGrant:
    """What a code entitles to; ``subject`` None and ``sans`` empty leave it to the template.

    ``usable``: it is neither spent nor past its time.
    """

    id: int
    template: str
    subject: x509.Name | None
    sans: tuple[x509.GeneralName, ...]
    usable: bool


@attrs.frozen
class CodeClaim:
    """The code, to be spent on one certificate."""

    code_id: int
    clock: Clock

    def take(self, connection: Connection, certificate_id: int) -> None:
        """Spend it by one conditional UPDATE; raises :class:`Rejected` where somebody was faster."""
        if not rows.spend(connection, self.code_id, now=self.clock.now()):
            raise Rejected.because(Refusal.NOT_AUTHENTICATED, "the enrolment code has been used or has expired")
        rows.bind_certificate(connection, self.code_id, certificate_id)

    def give_back(self, connection: Connection, certificate_id: int) -> None:
        """Make it usable again where no certificate came of it."""
        rows.give_back(connection, self.code_id, certificate_id)


class EnrollCodes:
    """Makes and finds enrolment codes."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        clock: Clock,
        rng: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._rng = rng
        self._secret: Secret | None = None

    async def create(
        self,
        *,
        template: str,
        subject: x509.Name | None,
        sans: tuple[x509.GeneralName, ...],
        lifetime: timedelta,
        by: str,
    ) -> tuple[int, Secret]:
        """A new code and its number. The code is told once and cannot be read again.

        Raises:
            Rejected: the lifetime is not positive or longer than a year, or a name cannot be bound.
        """
        if not timedelta() < lifetime <= MAXIMUM_LIFETIME:
            raise Rejected.because(Refusal.BAD_VALIDITY, "the lifetime of a code is between a moment and 366 days")
        stored = sans_of(sans)
        unbindable = [san for san in stored if san.kind not in _BACK]
        if unbindable:
            raise Rejected(Reason(Refusal.BAD_NAME, f"{san.value} cannot be bound to a code") for san in unbindable)
        code = new_code(self._rng)
        spelled = canonical(code)
        assert spelled is not None
        now = self._clock.now()
        row = rows.NewCode(
            keyed_hash=keyed_hash(await self._key(), spelled),
            template=template,
            subject=None if subject is None else subject.rfc4514_string(),
            sans=stored,
            expires=now + lifetime,
            created_by=by,
            created=now,
        )

        def store(connection: Connection) -> int:
            number = rows.insert_code(connection, row)
            self._audit.append(
                connection,
                AuditEvent(
                    kind=AuditKind.CODE,
                    actor=by,
                    object=f"enroll-code {number}",
                    details=(("change", "created"), ("template", template), ("subject", row.subject or "")),
                ),
            )
            return number

        return await self._database.write(store), code

    async def find(self, code: Secret) -> CodeGrant | None:
        """What a code entitles to, or did (``usable`` false), where it is one of ours. Spends nothing."""
        spelled = canonical(code)
        if spelled is None:
            return None
        digest = keyed_hash(await self._key(), spelled)
        return self._grant(await self._database.look_up(lambda connection: rows.by_keyed_hash(connection, digest)))

    async def find_number(self, number: int) -> CodeGrant | None:
        """The same by the code's number, for a request that showed the code when it came."""
        return self._grant(await self._database.read(lambda connection: rows.by_id(connection, number)))

    def _grant(self, found: Code | None) -> CodeGrant | None:
        if found is None:
            return None
        return CodeGrant(
            id=found.id,
            template=found.template,
            subject=None if found.subject is None else x509.Name.from_rfc4514_string(found.subject),
            sans=tuple(general_name(san) for san in found.sans),
            usable=found.spent_at is None and found.expires > self._clock.now(),
        )

    async def list_page(
        self, *, before: int | None = None, limit: int = 100, templates: frozenset[str] | None = None
    ) -> tuple[Code, ...]:
        """Codes by number, newest first; those of these templates, or of all."""
        return await self._database.read(
            lambda connection: rows.list_page(connection, before=before, limit=limit, templates=templates)
        )

    async def get(self, code_id: int) -> Code | None:
        """The record of one code, spent or not."""
        return await self._database.read(lambda connection: rows.by_id(connection, code_id))

    async def withdraw(self, code_id: int, *, by: str) -> bool:
        """Take back an unspent code; whether it was one."""
        event = AuditEvent(
            kind=AuditKind.CODE,
            actor=by,
            object=f"enroll-code {code_id}",
            details=(("change", "withdrawn"),),
        )

        def remove(connection: Connection) -> bool:
            if not rows.revoke_code(connection, code_id):
                return False
            self._audit.append(connection, event)
            return True

        return await self._database.write(remove)

    async def _key(self) -> Secret:
        if self._secret is None:
            fresh = Secret(self._rng(32))
            now = self._clock.now()
            self._secret = await self._database.write(
                lambda connection: server_secrets.get_or_put(connection, HASH_KEY_NAME, fresh, now=now)
            )
        return self._secret


def general_name(san: San) -> x509.GeneralName:
    """The general name behind a stored one, of the kinds that codes can bind."""
    return make(_BACK[san.kind], san.value, wildcard=True)
