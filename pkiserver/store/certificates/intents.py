"""The road of one certificate through the database: prepared, asked, then settled once and for all.

A serial is used once for each issuer: ``certificate_intent`` and ``certificate`` each hold it unique, a row moves from
the first to the second in one transaction, and :func:`insert_prepared` looks at the second *after* it holds the serial
in the first, when any earlier holder's move is committed and visible.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, insert, literal_column, select, update

from pkiserver.foundation.errors import Defect, Refusal, Rejected
from pkiserver.store.certificates.rows import intent_of
from pkiserver.store.certificates.values import (
    FINAL_REASONS,
    CertificateState,
    Intent,
    NewIntent,
    RevocationReason,
    serial_octets,
)
from pkiserver.store.constraints import conflicts_as
from pkiserver.store.names import printable, san_key, sans_from_text, sans_to_text, subject_key
from pkiserver.store.outbox import gather_status
from pkiserver.store.ready import Ready
from pkiserver.store.schema.certificates import certificate, certificate_intent, certificate_san
from pkiserver.store.times import to_micros

_intent, _certificate = certificate_intent.c, certificate.c
_COPIED = (
    "id",
    "issuer_id",
    "generation_id",
    "serial",
    "subject",
    "subject_key",
    "sans",
    "not_before",
    "not_after",
    "template",
    "requester",
    "protocol",
    "request_id",
    "spki_sha256",
    "created",
    "ca",
    "crl_shard",
)

_INSERT = Ready(
    insert(certificate_intent).returning(_intent.id),
    columns=[column.name for column in certificate_intent.columns if column is not _intent.id],
)
_USED = Ready(
    select(_certificate.id).where(
        _certificate.issuer_id == bindparam("issuer_id"), _certificate.serial == bindparam("serial")
    )
)
_ASK = Ready(
    update(certificate_intent)
    .where(_intent.id == bindparam("intent_id"), _intent.state == CertificateState.PREPARED.value)
    .values(state=CertificateState.ASKED.value)
)
_STORE = Ready(
    insert(certificate).from_select(
        [*_COPIED, "state", "der", "fingerprint", "settled"],
        select(
            *(_intent[name] for name in _COPIED),
            literal_column("'issued'"),
            bindparam("der", type_=_certificate.der.type),
            bindparam("fingerprint", type_=_certificate.fingerprint.type),
            bindparam("settled", type_=_certificate.settled.type),
        ).where(
            _intent.id == bindparam("intent_id"),
            _intent.state == CertificateState.ASKED.value,
            _intent.serial == bindparam("serial"),
        ),
    )
)
_SETTLE = (
    insert(certificate)
    .from_select(
        [*_COPIED, "state", "tbs", "revocation_reason", "revoked_at", "settled"],
        select(
            *(_intent[name] for name in _COPIED),
            bindparam("state", type_=_certificate.state.type),
            _intent.tbs,
            bindparam("reason", type_=_certificate.revocation_reason.type),
            bindparam("revoked_at", type_=_certificate.revoked_at.type),
            bindparam("settled", type_=_certificate.settled.type),
        ).where(_intent.id == bindparam("intent_id"), _intent.state == bindparam("from_state")),
    )
    .execution_options(preserve_rowcount=True)
)
_REMOVE = Ready(
    delete(certificate_intent)
    .where(_intent.id == bindparam("intent_id"))
    .returning(_intent.issuer_id, _intent.generation_id, _intent.serial, _intent.sans)
)
_INSERT_SANS = Ready(insert(certificate_san))


def insert_prepared(connection: Connection, intent: NewIntent) -> int:
    """Make a serial and what will be signed durable; returns the certificate's number, the same ever after.

    Raises:
        Rejected: with :data:`Refusal.CONFLICT` where the issuer has used the serial.
        ValueError: the serial is not one of RFC 5280.
    """
    serial = serial_octets(intent.serial)
    with conflicts_as("the serial number is in use; try again"):
        ((number,),) = _INSERT.rows(
            connection,
            {
                "issuer_id": intent.issuer_id,
                "generation_id": intent.generation_id,
                "serial": serial,
                "state": (CertificateState.ASKED if intent.asked else CertificateState.PREPARED).value,
                "tbs": intent.tbs,
                "subject": printable(intent.subject),
                "subject_key": subject_key(intent.subject),
                "sans": sans_to_text(intent.sans),
                "not_before": to_micros(intent.not_before),
                "not_after": to_micros(intent.not_after),
                "template": intent.template,
                "requester": printable(intent.requester),
                "protocol": intent.protocol,
                "request_id": printable(intent.request_id),
                "spki_sha256": intent.spki_sha256,
                "holder": intent.holder,
                "created": to_micros(intent.created),
                "ca": intent.ca,
                "crl_shard": intent.crl_shard,
            },
        )
    if _USED.rows(connection, {"issuer_id": intent.issuer_id, "serial": serial}):
        raise Rejected.because(Refusal.CONFLICT, "the serial number is in use; try again")
    return int(number)


def mark_asked(connection: Connection, intent_id: int) -> bool:
    """Say that a signature will now be asked for: prepared -> asked.

    False where the intent is not PREPARED any more (another process burnt it, or it was asked for before): then
    nothing may be signed.
    """
    return _ASK.count(connection, {"intent_id": intent_id}) == 1


def store_issued(connection: Connection, intent_id: int, der: bytes, *, serial: int, at: datetime) -> bool:
    """Keep the signed certificate: asked -> issued.

    False where the intent is not ASKED any more, or is another certificate's by its serial: a database that was
    brought back to an earlier state under a running process gives numbers out again.
    """
    values = {
        "intent_id": intent_id,
        "serial": serial_octets(serial),
        "der": der,
        "fingerprint": hashlib.sha256(der).digest(),
        "settled": to_micros(at),
    }
    if _STORE.count(connection, values) != 1:
        return False
    _move(connection, intent_id)
    return True


def burn(connection: Connection, intent_id: int, *, at: datetime, asked: bool = False) -> bool:
    """Give an intent up before a signature was asked for: prepared -> burnt. False where it is not PREPARED.

    ``asked``: asked -> burnt, for the one process that could have asked the key and knows that it did not.
    """
    settled = connection.execute(
        _SETTLE,
        {
            "intent_id": intent_id,
            "from_state": (CertificateState.ASKED if asked else CertificateState.PREPARED).value,
            "state": CertificateState.BURNT.value,
            "reason": None,
            "revoked_at": None,
            "settled": to_micros(at),
        },
    )
    if settled.rowcount != 1:
        return False
    _REMOVE.rows(connection, {"intent_id": intent_id})
    return True


def settle_asked(
    connection: Connection,
    intent_id: int,
    *,
    at: datetime,
    reason: RevocationReason = RevocationReason.UNSPECIFIED,
) -> bool:
    """Settle an intent whose signature was asked for and never stored: the record is kept, its serial revoked.

    False where the intent is not ASKED any more.
    """
    if reason not in FINAL_REASONS:
        raise Defect(f"{reason!r} is not a final reason")
    settled = connection.execute(
        _SETTLE,
        {
            "intent_id": intent_id,
            "from_state": CertificateState.ASKED.value,
            "state": CertificateState.REVOKED.value,
            "reason": int(reason),
            "revoked_at": to_micros(at),
            "settled": to_micros(at),
        },
    )
    if settled.rowcount != 1:
        return False
    issuer_id, generation_id, serial = _move(connection, intent_id)
    gather_status(
        connection,
        {
            "issuer_id": issuer_id,
            "generation_id": generation_id,
            "serial": serial,
            "status": CertificateState.REVOKED.value,
            "at": to_micros(at),
        },
    )
    return True


def get_intent(connection: Connection, intent_id: int) -> Intent | None:
    """The certificate under way of that number."""
    row = connection.execute(select(certificate_intent).where(_intent.id == intent_id)).one_or_none()
    return None if row is None else intent_of(row)


def number_under_way(connection: Connection, issuer_id: int, serial: int) -> int | None:
    """The number of the certificate under way with that serial."""
    query = select(_intent.id).where(_intent.issuer_id == issuer_id, _intent.serial == serial_octets(serial))
    number: int | None = connection.execute(query).scalar_one_or_none()
    return number


def open_intents(
    connection: Connection,
    *,
    created_before: datetime | None = None,
    holder: str | None = None,
    before: int | None = None,
    limit: int = 1000,
) -> tuple[Intent, ...]:
    """Certificates under way, newest first; of one ``holder``, or older than a time, where that is given.

    Those with numbers below ``before``.
    """
    query = select(certificate_intent).order_by(_intent.id.desc()).limit(limit)
    if before is not None:
        query = query.where(_intent.id < before)
    if created_before is not None:
        query = query.where(_intent.created < to_micros(created_before))
    if holder is not None:
        query = query.where(_intent.holder == holder)
    return tuple(intent_of(row) for row in connection.execute(query))


def _move(connection: Connection, intent_id: int) -> tuple[int, int, bytes]:
    """Take the intent away and make its names searchable."""
    ((issuer_id, generation_id, serial, sans),) = _REMOVE.rows(connection, {"intent_id": intent_id})
    keys = {(san.kind.value, san_key(san)) for san in sans_from_text(sans)}
    if keys:
        names = [{"kind": kind, "value": value, "certificate_id": intent_id} for kind, value in sorted(keys)]
        _INSERT_SANS.many(connection, names)
    return issuer_id, generation_id, serial
