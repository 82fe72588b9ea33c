"""The road's second half: the prepared octets are signed once, compared, stored and audited, then given out.

"Signature asked" is durable before the key is called. From then on the certificate counts as issued: where the road
breaks off, :mod:`pkiserver.authority.recover` keeps the prepared certificate as the record and revokes its serial.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from sqlalchemy import Connection
from twisted.logger import Logger

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority import certparts
from pkiserver.authority.checkpoints import Checkpoint, Step, go_on
from pkiserver.authority.requests import Claim, IssuedCertificate, PreparedCertificate
from pkiserver.authority.turns import Turns
from pkiserver.foundation import der
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Defect, PkiError, Refusal, Rejected, Unavailable
from pkiserver.keys.algorithms import SignatureScheme
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.signers import CertificateSigner
from pkiserver.store import certificates
from pkiserver.store.certificates import NewIntent, RevocationReason
from pkiserver.store.database import Database

Also = Callable[[Connection, IssuedCertificate], None]
"""Something that must become durable together with a certificate."""


class Issuer:
    """Turns prepared certificates into issued ones."""

    log = Logger()

    def __init__(
        self,
        *,
        database: Database,
        keys: KeyRing,
        audit: AuditLog,
        clock: Clock,
        left: Callable[[int], None],
        checkpoint: Checkpoint = go_on,
    ) -> None:
        """``left`` is told the serial number of what could not be given up, as the database was away."""
        self._left = left
        self._database = database
        self._keys = keys
        self._audit = audit
        self._clock = clock
        self._checkpoint = checkpoint
        self._turns = Turns()
        self._asked: set[int] = set()

    def require_key(self, key_name: str) -> None:
        """See to it that the key can be used now; raises :class:`Unavailable` where its token is away."""
        self._signer(key_name)

    def expect(self, certificate_id: int) -> None:
        """Know that this certificate's "signature asked" became durable with its intent: :meth:`issue` says it no more.

        It is known until it is issued, which makes it good for one signature as well.
        """
        self._asked.add(certificate_id)

    async def take_back(self, intent: NewIntent, claims: tuple[Claim, ...], *, late: bool) -> None:
        """Give up what was prepared where nobody was told its number, if it became durable; nothing was signed.

        ``claims`` can be used again. ``late``: it may be made durable after this, by a server that the connection to
        was lost.
        """
        now = self._clock.now()

        def work(connection: Connection) -> bool:
            number = certificates.number_under_way(connection, intent.issuer_id, intent.serial)
            if number is not None and certificates.burn(connection, number, at=now, asked=intent.asked):
                _give_back(connection, claims, number)
            return number is not None

        try:
            if not await self._database.write(work) and late:
                self._left(intent.serial)
        except PkiError as error:
            self._left(intent.serial)
            self.log.error("serial {serial:x} is left to recovery: {why}", serial=intent.serial, why=str(error))

    async def issue(self, prepared: PreparedCertificate, *, also: Also | None = None) -> IssuedCertificate:
        """Sign, compare, store, audit. A prepared certificate is used once; ``also`` is written with the certificate.

        Raises:
            Rejected: CONFLICT; the prepared certificate was used before, or given up.
            Unavailable: the key or the database is away; no certificate was given out, and none will be.
            Defect: what came back is not what was prepared.
        """
        scheme = SignatureScheme.parse(prepared.scheme)
        asked = prepared.certificate_id in self._asked
        self._asked.discard(prepared.certificate_id)
        if not asked:
            await self._ask(prepared)
        try:
            signer = self._signer(prepared.key_name)
            await self._turns.wait()
            der_certificate = await signer.sign(prepared.tbs, scheme)
            _compare(prepared, der_certificate, scheme)
        except BaseException as error:
            await self._give_up(prepared, error)
            raise
        self._checkpoint(Step.SIGNED)
        issued = IssuedCertificate(
            certificate_id=prepared.certificate_id,
            der=der_certificate,
            serial=prepared.serial,
            chain=prepared.chain,
            authority=prepared.authority,
            template=prepared.template,
            warnings=prepared.warnings,
        )
        try:
            await self._store(prepared, issued, also)
        except BaseException as error:  # whoever asked may have left, and it is stored nonetheless
            await self._give_up(prepared, error)
            raise
        self._checkpoint(Step.STORED)
        return issued

    async def _ask(self, prepared: PreparedCertificate) -> None:
        """Make durable that the key will now be asked; the store lets that happen once."""
        try:
            self._signer(prepared.key_name)
        except PkiError:
            await self._burn(prepared)
            raise
        if not await self._settling(prepared, lambda c: certificates.mark_asked(c, prepared.certificate_id)):
            raise Rejected.because(Refusal.CONFLICT, "this prepared certificate has been used or given up")
        self._checkpoint(Step.ASKED)

    def _signer(self, key_name: str) -> CertificateSigner:
        """The issuer's key, seen to be there before anything is asked of it."""
        signer = self._keys.certificate_signer(key_name)
        self._keys.require_ready(key_name)
        return signer

    async def _store(self, prepared: PreparedCertificate, issued: IssuedCertificate, also: Also | None) -> None:
        now = self._clock.now()
        event = _issue_event(prepared, "ok")

        def store(connection: Connection) -> Unavailable | None:
            """Why it is not stored; None where it is."""
            if prepared.is_rivalled(connection):
                text = "a certificate with this key is being made at this moment: ask again"
                return Unavailable(text, retry_after=1, public=True)
            if not certificates.store_issued(
                connection, prepared.certificate_id, issued.der, serial=issued.serial, at=now
            ):
                # Another process took this one for dead and settled the intent: the serial is revoked already.
                return Unavailable("the certificate took too long to sign and was given up", public=True)
            for old in prepared.supersedes:
                certificates.revoke(connection, old, reason=RevocationReason.SUPERSEDED, at=now)
            for old in prepared.supersedes + (() if prepared.replaces is None else (prepared.replaces,)):
                certificates.mark_replaced(connection, old, prepared.certificate_id)
            if also is not None:
                also(connection, issued)
            self._audit.append(connection, event)
            return None

        if (why := await self._database.write(store)) is not None:
            raise why

    async def _burn(self, prepared: PreparedCertificate) -> None:
        """The key is away before anything was asked of it: the serial is never issued."""
        now = self._clock.now()

        def burn(connection: Connection) -> bool:
            burnt = certificates.burn(connection, prepared.certificate_id, at=now)
            if burnt:
                _give_back(connection, prepared.claims, prepared.certificate_id)
            return burnt

        await self._settling(prepared, burn)

    async def _settling(self, prepared: PreparedCertificate, step: Callable[[Connection], bool]) -> bool:
        """A write without which nobody else would end what is under way; where it fails, recovery does."""
        try:
            return await self._database.write(step)
        except PkiError:
            self._left(prepared.serial)
            raise

    async def _give_up(self, prepared: PreparedCertificate, error: BaseException) -> None:
        """A signature was asked for, and nothing is stored: the record is kept and the serial revoked.

        What was to be spent on it can be used again, by the same write: one of its own might find the database away.
        """
        now = self._clock.now()
        event = _issue_event(prepared, "failed", ("why", type(error).__name__))

        def settle(connection: Connection) -> None:
            if certificates.settle_asked(connection, prepared.certificate_id, at=now):
                _give_back(connection, prepared.claims, prepared.certificate_id)
                self._audit.append(connection, event)

        try:
            await self._database.write(settle)
        except PkiError as second:  # recovery will settle it; the first error is the one to tell
            self._left(prepared.serial)
            self.log.error("intent {id} is left to recovery: {why}", id=prepared.certificate_id, why=str(second))


def _give_back(connection: Connection, claims: tuple[Claim, ...], certificate_id: int) -> None:
    for claim in claims:
        claim.give_back(connection, certificate_id)


def _compare(prepared: PreparedCertificate, certificate: bytes, scheme: SignatureScheme) -> None:
    """The signed octets are the prepared ones, and the signature is the issuer's; raises :class:`Defect`."""
    try:
        tbs = certparts.certificate_tbs(certificate)
        outer = der.element(certificate)
        fields = der.children(certificate, outer)
    except der.NotDer as error:
        raise Defect("what the key gave back is not a certificate") from error
    if len(fields) != 3 or tbs != prepared.tbs:
        raise Defect("the signed certificate differs from the prepared one")
    if certificate[fields[1].start : fields[1].end] != scheme.algorithm_identifier():
        raise Defect("the certificate's signature algorithm is not the prepared one")
    signature = certificate[fields[2].body + 1 : fields[2].end]
    key: CertificateIssuerPublicKeyTypes = prepared.issuer_key
    if not scheme.verify(key, signature, tbs):
        raise Defect("the signature does not verify with the issuer's key")


def _issue_event(prepared: PreparedCertificate, outcome: str, *more: tuple[str, str]) -> AuditEvent:
    decided = (("decided_by", prepared.decided_by),) if prepared.decided_by else ()
    return AuditEvent(
        kind=AuditKind.ISSUE,
        actor=prepared.requester,
        object=f"certificate {prepared.serial:x}",
        outcome=outcome,
        request_id=prepared.request_id or None,
        details=(
            ("authority", prepared.authority),
            ("template", prepared.template),
            ("protocol", prepared.protocol),
            ("subject", prepared.subject),
            *decided,
            *more,
        ),
    )
