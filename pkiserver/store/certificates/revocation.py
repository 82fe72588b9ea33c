"""Revocation, hold and release: each one conditional UPDATE, and a row of the status feed in the same transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, or_, select, update

from pkiserver.foundation.errors import Defect
from pkiserver.store.certificates.values import (
    COMPROMISES,
    FINAL_REASONS,
    CertificateState,
    RevocationReason,
    RevokedEntry,
    serial_number,
)
from pkiserver.store.names import address_keys, sans_from_text
from pkiserver.store.outbox import gather_outward, gather_status
from pkiserver.store.ready import Ready
from pkiserver.store.schema.certificates import certificate
from pkiserver.store.times import from_micros, optional_micros, optional_time, to_micros

_c = certificate.c
_CHANGED = (_c.issuer_id, _c.generation_id, _c.serial, _c.state, _c.sans)
_SET_REVOCATION: dict[str, Any] = {
    "revocation_reason": bindparam("reason"),
    "revoked_at": bindparam("at"),
    "invalidity_date": bindparam("invalidity"),
}
_NUMBERED = update(certificate).where(_c.id == bindparam("number")).returning(*_CHANGED)
_REVOKE = Ready(
    _NUMBERED.where(or_(_c.state == "issued", _c.state == "held")).values(state="revoked", **_SET_REVOCATION)
)
_HOLD = Ready(_NUMBERED.where(_c.state == "issued").values(state="held", **_SET_REVOCATION))
_RELEASE = Ready(
    _NUMBERED.where(_c.state == "held").values(
        state="issued", revocation_reason=None, revoked_at=None, invalidity_date=None
    )
)
_STREAM_STEP = 5000


def revoke(
    connection: Connection,
    certificate_id: int,
    *,
    reason: RevocationReason,
    at: datetime,
    invalidity_date: datetime | None = None,
) -> bool:
    """Revoke for good: issued | held -> revoked. False where it is neither.

    Raises:
        Defect: ``reason`` is certificateHold or removeFromCRL.
    """
    if reason not in FINAL_REASONS:
        raise Defect(f"{reason!r} is not a final reason")
    values = {"reason": int(reason), "at": to_micros(at), "invalidity": optional_micros(invalidity_date)}
    return _change(connection, _REVOKE, certificate_id, at, values)


def hold(connection: Connection, certificate_id: int, *, at: datetime, invalidity_date: datetime | None = None) -> bool:
    """Suspend with certificateHold: issued -> held. False where it is not ISSUED."""
    invalidity = optional_micros(invalidity_date)
    values = {"reason": int(RevocationReason.CERTIFICATE_HOLD), "at": to_micros(at), "invalidity": invalidity}
    return _change(connection, _HOLD, certificate_id, at, values)


def release(connection: Connection, certificate_id: int, *, at: datetime) -> bool:
    """End a hold: held -> issued. False where it is not HELD."""
    return _change(connection, _RELEASE, certificate_id, at, {})


def amend_reason(
    connection: Connection,
    certificate_id: int,
    *,
    reason: RevocationReason,
    at: datetime,
    invalidity_date: datetime | None = None,
) -> bool:
    """Learn more about a revocation that stands: revoked -> revoked, with the same revocation date.

    RFC 5280 section 5.3.1 knows no way back, so a reason only becomes clearer or graver: an unspecified one may be
    told, any but a compromise may become a compromise. An invalidity date may be added, or moved back. False where
    none of this is so.

    Args:
        connection: Inside a write.
        certificate_id: The certificate's number.
        reason: The reason from now on; the present one where only the date changes.
        at: The time of this change, for the status feed.
        invalidity_date: Since when the key is suspected; None leaves it as it is.

    Raises:
        Defect: ``reason`` is one that does not last (RFC 5280 section 5.3.1: certificateHold, removeFromCRL).
    """
    if reason not in FINAL_REASONS:
        raise Defect(f"{reason!r} is not a final reason")
    clearer = _c.revocation_reason == int(RevocationReason.UNSPECIFIED)
    if reason in COMPROMISES:
        clearer = or_(clearer, _c.revocation_reason.not_in([int(one) for one in COMPROMISES]))
    change = update(certificate).where(_c.id == certificate_id, _c.state == "revoked")
    if invalidity_date is None:
        change = change.where(clearer, _c.revocation_reason != int(reason)).values(revocation_reason=int(reason))
    else:
        micros = to_micros(invalidity_date)
        earlier = or_(_c.invalidity_date.is_(None), _c.invalidity_date > micros)
        change = change.where(or_(clearer, _c.revocation_reason == int(reason)), earlier)
        change = change.values(revocation_reason=int(reason), invalidity_date=micros)
    # rare and of many shapes: made anew each time
    row = connection.execute(change.returning(*_CHANGED)).one_or_none()
    return row is not None and _told(connection, row, at)


def revoked_for_crl(
    connection: Connection,
    generation_id: int,
    *,
    not_expired_at: datetime,
) -> Iterator[RevokedEntry]:
    """Every revoked or held certificate of a key generation that had not expired at a time, streamed.

    Rows come in the order of expiry, a few thousand in memory at a time; read them inside one
    :meth:`Database.read`, whose snapshot makes the list consistent. An entry stays until it has been on one CRL after
    expiry (RFC 5280 section 3.3): give the time of the last CRL.
    """
    query = (
        select(_c.serial, _c.revocation_reason, _c.revoked_at, _c.invalidity_date, _c.not_after)
        .where(
            _c.generation_id == generation_id,
            _c.revoked_at.is_not(None),
            _c.not_after >= to_micros(not_expired_at),
        )
        .order_by(_c.not_after, _c.id)
    )
    rows = connection.execution_options(yield_per=_STREAM_STEP).execute(query)
    for serial, reason, at, invalidity, not_after in rows:
        yield RevokedEntry(
            serial_number(serial),
            RevocationReason(reason),
            from_micros(at),
            optional_time(invalidity),
            from_micros(not_after),
        )


def _change(
    connection: Connection, statement: Ready, number: int, at: datetime, values: Mapping[str, int | None]
) -> bool:
    rows = statement.rows(connection, {**values, "number": number})
    return bool(rows) and _told(connection, rows[0], at)


def _told(connection: Connection, row: Sequence[Any], at: datetime) -> bool:
    """Tell the feeds of a changed certificate (``_CHANGED``); always true."""
    issuer_id, generation_id, serial, state, sans = row
    gather_status(
        connection,
        {
            "issuer_id": issuer_id,
            "generation_id": generation_id,
            "serial": serial,
            "status": CertificateState(state).value,
            "at": to_micros(at),
        },
    )
    gather_outward(connection, address_keys(sans_from_text(sans)))
    return True
