"""Revocation, hold and release: one write each, refused with every reason where they make no sense."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority import certparts
from pkiserver.authority.consent import UNASKED, Consent
from pkiserver.authority.status.values import reason_name
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.store import certificates
from pkiserver.store.authority import authorities
from pkiserver.store.certificates import Certificate, CertificateState, RevocationReason, blocked_keys
from pkiserver.store.database import Database

_BLOCKING = frozenset({RevocationReason.KEY_COMPROMISE, RevocationReason.CA_COMPROMISE})
"""Reasons after which the key is never certified again."""


@attrs.frozen
class BySerial:
    """A certificate by serial number; ``authority`` is needed only where several issuers used the number."""

    serial: int
    authority: str | None = None


@attrs.frozen
class ByFingerprint:
    """A certificate by the SHA-256 of its DER, 32 octets."""

    sha256: bytes


@attrs.frozen
class ByCertificate:
    """A certificate by its own DER."""

    der: bytes = attrs.field(repr=False)


Selector = BySerial | ByFingerprint | ByCertificate


@attrs.frozen
class Order:
    """Who wants a change of status, and how it is traced.

    Attributes:
        actor: Who asks.
        approved_by: A second person, needed where it is an authority's own certificate.
        request_id: The request it came with, if any.
        comment: One line for the audit log.
        consent: Of others, which the change uses up.
    """

    actor: str
    approved_by: str | None = None
    request_id: str | None = None
    comment: str = ""
    consent: Consent = UNASKED


@attrs.frozen
class StatusChange:
    """A change that is durable. ``before`` is the record as it was."""

    before: Certificate
    after: Certificate


def find(connection: Connection, selector: Selector, *, to_change: bool = False) -> Certificate:
    """The one certificate that is meant; ``to_change``, inside a write: no other process changes it meanwhile.

    Raises:
        Rejected: UNKNOWN_CERTIFICATE, UNKNOWN_AUTHORITY; CONFLICT when several issuers used the serial number.
    """
    match selector:
        case BySerial():
            return _by_serial(connection, selector, to_change)
        case ByFingerprint(sha256):
            found = certificates.by_fingerprint(connection, sha256, locked=to_change)
            return _known(found, f"no certificate with fingerprint {sha256.hex()} was issued here")
        case ByCertificate(octets):
            found = certificates.by_fingerprint(connection, hashlib.sha256(octets).digest(), locked=to_change)
            return _known(found, "this certificate was not issued here")


def _by_serial(connection: Connection, selector: BySerial, to_change: bool) -> Certificate:
    if selector.authority is None:
        return _by_serial_anywhere(connection, selector.serial, to_change)
    row = authorities.get(connection, selector.authority)
    if row is None:
        raise Rejected.because(Refusal.UNKNOWN_AUTHORITY, f"there is no authority named {selector.authority!r}")
    found = certificates.by_serial(connection, row.issuer_id, selector.serial, locked=to_change)
    return _known(found, f"{selector.authority} never issued serial {selector.serial:x}")


def _known(found: Certificate | None, otherwise: str) -> Certificate:
    if found is None or found.state is CertificateState.BURNT:
        raise Rejected.because(Refusal.UNKNOWN_CERTIFICATE, otherwise)
    return found


def _by_serial_anywhere(connection: Connection, serial: int, to_change: bool) -> Certificate:
    issuers = {row.issuer_id: row.name for row in authorities.list_all(connection)}
    found = {
        name: one
        for issuer_id, name in issuers.items()
        if (one := certificates.by_serial(connection, issuer_id, serial, locked=to_change)) is not None
        and one.state is not CertificateState.BURNT
    }
    if len(found) > 1:
        names = ", ".join(sorted(found))
        raise Rejected.because(Refusal.CONFLICT, f"serial {serial:x} was issued by several authorities: {names}")
    return _known(next(iter(found.values()), None), f"no authority here issued serial {serial:x}")


def _authority_reasons(connection: Connection, found: Certificate, order: Order) -> list[Reason]:
    """Why the status of a certificate that is an authority's own may not be changed by one person alone."""
    for authority, own in authorities.own_certificates(connection):
        if found.fingerprint != hashlib.sha256(own).digest():
            continue
        if certparts.issuer_octets(own) == certparts.subject_octets(own):
            text = f"it is the self-signed certificate of authority {authority}: nobody would learn of it"
            return [Reason(Refusal.CONFLICT, text)]
        if order.approved_by is None or order.approved_by == order.actor:
            text = f"it is the certificate of authority {authority}: a second person must approve"
            return [Reason(Refusal.NOT_AUTHORISED, text)]
    return []


def _date_reasons(found: Certificate, invalidity_date: datetime | None, now: datetime) -> list[Reason]:
    if invalidity_date is None:
        return []
    if invalidity_date > now:
        return [Reason(Refusal.BAD_VALIDITY, "the invalidity date lies in the future")]
    if invalidity_date < found.not_before:
        return [Reason(Refusal.BAD_VALIDITY, "the invalidity date lies before the certificate's validity")]
    return []


def _held_since(found: Certificate) -> str:
    assert found.revocation is not None
    return f"it is on hold since {found.revocation.at:%Y-%m-%d %H:%M:%SZ}"


def _revoked_since(found: Certificate) -> str:
    assert found.revocation is not None
    return f"it is revoked since {found.revocation.at:%Y-%m-%d %H:%M:%SZ} ({reason_name(found.revocation.reason)})"


class Revocations:
    """The one place where the status of a certificate changes after its issue.

    ``changed`` is called after each change, so that this process need not wait for the feed to learn of its own.
    """

    def __init__(
        self, database: Database, audit: AuditLog, clock: Clock, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock
        self._changed = changed

    async def _write(self, work: Callable[[Connection], StatusChange]) -> StatusChange:
        made = await self._database.write(work)
        self._changed()
        return made

    async def find(self, selector: Selector) -> Certificate:
        """The one certificate that is meant; raises as :func:`find` does."""
        return await self._database.read(lambda connection: find(connection, selector))

    async def revoke(
        self, selector: Selector, reason: RevocationReason, order: Order, *, invalidity_date: datetime | None = None
    ) -> StatusChange:
        """Revoke for good; with certificateHold as reason it is :meth:`hold`.

        A certificate on hold keeps the date of its hold. One that is revoked already is refused, but for a reason that
        makes clearer what happened: an unspecified reason may be told, any reason may become a compromise; the date of
        revocation stays. keyCompromise and cACompromise block the key for good.

        Raises:
            Rejected: with every reason found. Nothing was changed.
            Unavailable: The database cannot be written.
        """
        if reason is RevocationReason.CERTIFICATE_HOLD:
            return await self.hold(selector, order, invalidity_date=invalidity_date)
        if reason is RevocationReason.REMOVE_FROM_CRL:
            raise Rejected.because(
                Refusal.UNSUPPORTED, "removeFromCRL is what a delta CRL says of a released certificate: release it"
            )
        now = self._now()

        def work(connection: Connection) -> StatusChange:
            order.consent.spend(connection)
            found = find(connection, selector, to_change=True)
            self._refuse(
                *_authority_reasons(connection, found, order),
                *_date_reasons(found, invalidity_date, now),
                *_expiry_reasons(found, reason, now),
            )
            if found.state is CertificateState.REVOKED:
                changed = certificates.amend_reason(
                    connection, found.id, reason=reason, at=now, invalidity_date=invalidity_date
                )
            else:
                at = now if found.revocation is None else found.revocation.at
                changed = certificates.revoke(
                    connection, found.id, reason=reason, at=at, invalidity_date=invalidity_date
                )
            if not changed:
                raise Rejected.because(Refusal.REVOKED, _revoked_since(found))
            if reason in _BLOCKING:
                why = f"{reason_name(reason)} of serial {found.serial:x}"
                blocked_keys.add_many(connection, (found.spki_sha256,), why=why, now=now)
            return self._noted(connection, found, order, reason, invalidity_date)

        return await self._write(work)

    async def hold(self, selector: Selector, order: Order, *, invalidity_date: datetime | None = None) -> StatusChange:
        """Put on hold (certificateHold); raises as :meth:`revoke` does."""
        now = self._now()

        def work(connection: Connection) -> StatusChange:
            order.consent.spend(connection)
            found = find(connection, selector, to_change=True)
            reasons = [*_authority_reasons(connection, found, order), *_date_reasons(found, invalidity_date, now)]
            if found.not_after < now:
                reasons.append(Reason(Refusal.CONFLICT, f"it expired at {found.not_after:%Y-%m-%d %H:%M:%SZ}"))
            if found.state is CertificateState.REVOKED:
                reasons.append(Reason(Refusal.REVOKED, _revoked_since(found)))
            if found.state is CertificateState.HELD:
                reasons.append(Reason(Refusal.CONFLICT, _held_since(found)))
            self._refuse(*reasons)
            certificates.hold(connection, found.id, at=now, invalidity_date=invalidity_date)
            hold = RevocationReason.CERTIFICATE_HOLD
            return self._noted(connection, found, order, hold, invalidity_date)

        return await self._write(work)

    async def release(self, selector: Selector, order: Order) -> StatusChange:
        """End a hold: the certificate is good again. Raises as :meth:`revoke` does."""
        now = self._now()

        def work(connection: Connection) -> StatusChange:
            order.consent.spend(connection)
            found = find(connection, selector, to_change=True)
            self._refuse(*_authority_reasons(connection, found, order))
            if not certificates.release(connection, found.id, at=now):
                known = _revoked_since(found) if found.state is CertificateState.REVOKED else "it is not on hold"
                raise Rejected.because(Refusal.CONFLICT, f"only a certificate on hold can be released: {known}")
            return self._noted(connection, found, order)

        return await self._write(work)

    def _now(self) -> datetime:
        # CRLs and OCSP tell whole seconds; a revocation date must not lie after the list that tells it.
        return self._clock.now().replace(microsecond=0)

    @staticmethod
    def _refuse(*reasons: Reason) -> None:
        if reasons:
            raise Rejected(reasons)

    def _noted(
        self,
        connection: Connection,
        before: Certificate,
        order: Order,
        reason: RevocationReason | None = None,
        invalidity_date: datetime | None = None,
    ) -> StatusChange:
        details = [("serial", f"{before.serial:x}"), ("subject", before.subject), ("was", before.state.value)]
        if reason is not None:
            details.append(("reason", reason_name(reason)))
        if invalidity_date is not None:
            details.append(("invalidity_date", f"{invalidity_date:%Y-%m-%dT%H:%M:%SZ}"))
        if order.approved_by is not None:
            details.append(("approved_by", order.approved_by))
        if order.comment:
            details.append(("comment", order.comment))
        details += order.consent.details
        event = AuditEvent(
            kind=AuditKind.RELEASE if reason is None else AuditKind.REVOCATION,
            actor=order.actor,
            object=f"certificate {before.serial:x}",
            outcome="ok",
            request_id=order.request_id,
            details=tuple(details),
        )
        self._audit.append(connection, event)
        after = certificates.get(connection, before.id)
        assert after is not None
        return StatusChange(before, after)


def _expiry_reasons(found: Certificate, reason: RevocationReason, now: datetime) -> list[Reason]:
    # An expired certificate is on no CRL; only a compromise still tells something: its key is blocked.
    if found.not_after >= now or reason in _BLOCKING:
        return []
    text = f"it expired at {found.not_after:%Y-%m-%d %H:%M:%SZ}; only a compromise can still be recorded"
    return [Reason(Refusal.CONFLICT, text)]
