"""Finding single certificates, and those that a duplicate policy asks about."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, func, or_, select, union_all, update

from pkiserver.store.certificates.rows import certificate_of, status_of
from pkiserver.store.certificates.values import (
    COMPROMISES,
    Certificate,
    CertificateState,
    CertificateStatus,
    serial_number,
    serial_octets,
)
from pkiserver.store.names import subject_key
from pkiserver.store.ready import Ready
from pkiserver.store.schema.certificates import blocked_key, certificate, certificate_intent
from pkiserver.store.times import to_micros

_LATELY = 10_000
"""Rows that :func:`newest_serial` looks at."""
_MOST_ALIKE = 100
"""Certificates of one key or subject that are told."""
_c, _i = certificate.c, certificate_intent.c
_STATE = Ready(select(_c.state).where(_c.id == bindparam("number")))
_NUMBER = Ready(select(_c.id).where(_c.fingerprint == bindparam("fingerprint")))
_BY_ID = Ready(select(certificate).where(_c.id == bindparam("number")))
_SERIAL = select(certificate).where(_c.issuer_id == bindparam("issuer"), _c.serial == bindparam("serial"))
_FINGERPRINT = select(certificate).where(_c.fingerprint == bindparam("fingerprint"))
# each as it is, and locked
_BY_SERIAL, _BY_FINGERPRINT = ((Ready(query), Ready(query.with_for_update())) for query in (_SERIAL, _FINGERPRINT))
_STATUS = Ready(
    select(
        _c.id, _c.generation_id, _c.state, _c.revocation_reason, _c.revoked_at, _c.invalidity_date, _c.not_after
    ).where(_c.issuer_id == bindparam("issuer"), _c.serial == bindparam("serial"))
)
_REPLACE = Ready(
    update(certificate)
    .where(_c.id == bindparam("number"), _c.replaced_by.is_(None))
    .values(replaced_by=bindparam("successor"))
)
_SUCCESSOR = Ready(select(_c.replaced_by).where(_c.id == bindparam("number")).with_for_update())
_SUCCEED = Ready(update(certificate).where(_c.id == bindparam("number")).values(replaced_by=bindparam("successor")))
_UNDER_WAY = Ready(select(_i.id).where(_i.id == bindparam("number")))
_COMPROMISED = Ready(
    select(_c.id)
    .where(
        _c.spki_sha256 == bindparam("digest"),
        _c.revoked_at.is_not(None),  # the index over these holds few rows, however often a key was certified
        _c.state == "revoked",
        or_(*(_c.revocation_reason == int(reason) for reason in COMPROMISES)),
    )
    .limit(1)
)

# Made once: these are asked for every certificate, and making a statement costs several times its execution.
_IS_VALID = (
    or_(_c.state == CertificateState.ISSUED.value, _c.state == CertificateState.HELD.value),
    _c.not_after >= bindparam("now"),
)
_VALID_BY_KEY = Ready(
    select(certificate)
    .where(_c.spki_sha256 == bindparam("wanted"), _c.template == bindparam("template"), *_IS_VALID)
    .order_by(_c.id.desc())
    .limit(_MOST_ALIKE)
)
_VALID_OF_SUBJECT = Ready(
    select(_c.id)
    .where(_c.subject_key == bindparam("wanted"), _c.template == bindparam("template"), *_IS_VALID)
    .order_by(_c.id.desc())
    .limit(_MOST_ALIKE)
)
_SUBJECT_UNDER_WAY = Ready(
    select(_i.id)
    .where(_i.subject_key == bindparam("wanted"), _i.template == bindparam("template"), _i.id != bindparam("own"))
    .limit(1)
)
_OF_KEY_UNDER_WAY = select(_i.id).where(_i.spki_sha256 == bindparam("wanted"), _i.id != bindparam("own"))
_KEY_KNOWN = Ready(
    union_all(
        select(_c.id).where(_c.spki_sha256 == bindparam("wanted")),
        _OF_KEY_UNDER_WAY,
        select(blocked_key.c.added).where(blocked_key.c.spki_sha256 == bindparam("wanted")),
    ).limit(1)
)
_OF_KEY = select(_c.id).where(_c.spki_sha256 == bindparam("wanted"), _c.id != bindparam("renewed"), *_IS_VALID)
_KEY_IN_USE = Ready(union_all(_OF_KEY, _OF_KEY_UNDER_WAY).limit(1))
_KEY_OF_ANOTHER = Ready(
    union_all(
        # the index over keys has the subjects too: those of the same one, mostly all, are passed over within it
        _OF_KEY.where(_c.subject_key != bindparam("subject")),
        _OF_KEY_UNDER_WAY.where(_i.subject_key != bindparam("subject")),
    ).limit(1)
)


def get(connection: Connection, certificate_id: int) -> Certificate | None:
    """The settled certificate of that number."""
    return _one(connection, _BY_ID, number=certificate_id)


def by_serial(connection: Connection, issuer_id: int, serial: int, *, locked: bool = False) -> Certificate | None:
    """The issuer's settled certificate of that serial; None also for a number that no serial can be.

    ``locked``, inside a write: until its commit no other process changes the row.
    """
    try:
        octets = serial_octets(serial)
    except ValueError:
        return None
    return _one(connection, _BY_SERIAL[locked], issuer=issuer_id, serial=octets)


def newest_serial(connection: Connection, generation_id: int, *, now: datetime) -> int | None:
    """The serial of a certificate of a key generation that was settled lately and is valid; None where none is found.

    Only the newest rows are looked at, so that the answer comes at once however many there are.
    """
    newest = select(func.max(_c.id)).scalar_subquery()
    query = (
        select(_c.serial)
        .where(
            _c.id > newest - _LATELY,
            _c.generation_id == generation_id,
            _c.state.in_(("issued", "revoked", "held")),
            _c.not_before <= to_micros(now),
            _c.not_after > to_micros(now),
        )
        .order_by(_c.id.desc())
        .limit(1)
    )
    found = connection.execute(query).scalar()
    return None if found is None else serial_number(found)


def by_fingerprint(connection: Connection, fingerprint: bytes, *, locked: bool = False) -> Certificate | None:
    """The certificate whose DER has that SHA-256; ``locked`` as for :func:`by_serial`."""
    return _one(connection, _BY_FINGERPRINT[locked], fingerprint=fingerprint)


def number_of(connection: Connection, fingerprint: bytes) -> int | None:
    """The number of the certificate whose DER has that SHA-256."""
    rows = _NUMBER.rows(connection, {"fingerprint": fingerprint})
    return int(rows[0][0]) if rows else None


def state_of(connection: Connection, certificate_id: int) -> CertificateState | None:
    """The state of the certificate of that number, which says less than :func:`get` and costs less."""
    rows = _STATE.rows(connection, {"number": certificate_id})
    return CertificateState(rows[0][0]) if rows else None


@cache
def _states(number: int) -> tuple[tuple[str, ...], Ready]:
    names = tuple(f"fingerprint_{n}" for n in range(number))
    return names, Ready(select(_c.fingerprint, _c.state).where(_c.fingerprint.in_([bindparam(name) for name in names])))


def states_of(connection: Connection, fingerprints: Sequence[bytes]) -> dict[bytes, CertificateState]:
    """The states of those certificates that are known here, by the SHA-256 of their DER. For a chain's few."""
    names, query = _states(len(fingerprints))
    rows = query.rows(connection, dict(zip(names, fingerprints, strict=True)))
    return {bytes(fingerprint): CertificateState(state) for fingerprint, state in rows}


def status_by_serial(connection: Connection, issuer_id: int, serial: int) -> CertificateStatus | None:
    """The status of a serial; None for one that was never settled. One index probe, no DER."""
    try:
        octets = serial_octets(serial)
    except ValueError:
        return None
    row = _STATUS.one(connection, {"issuer": issuer_id, "serial": octets})
    return None if row is None else status_of(row)


def statuses_by_serial(
    connection: Connection, issuer_id: int, serials: Collection[int]
) -> dict[int, CertificateStatus]:
    """The statuses of several serials; those never settled are missing."""
    found = ((serial, status_by_serial(connection, issuer_id, serial)) for serial in serials)
    return {serial: status for serial, status in found if status is not None}


def valid_of_subject(connection: Connection, subject: str, *, now: datetime, template: str) -> tuple[int, ...]:
    """Numbers of certificates of that template and subject (RFC 4514 text), issued or held and not expired.

    The newest hundred, newest first.
    """
    values = {"wanted": subject_key(subject), "now": to_micros(now), "template": template}
    return tuple(number for (number,) in _VALID_OF_SUBJECT.rows(connection, values))


def valid_by_key(
    connection: Connection, spki_sha256: bytes, *, now: datetime, template: str
) -> tuple[Certificate, ...]:
    """Certificates of that public key and template that are issued or held and not expired.

    The newest hundred, newest first.
    """
    values = {"wanted": spki_sha256, "now": to_micros(now), "template": template}
    return tuple(certificate_of(row) for row in _VALID_BY_KEY.named(connection, values))


def is_subject_under_way(connection: Connection, subject: str, *, template: str, besides: int = 0) -> bool:
    """Whether a certificate of that template and subject is under way, but for ``besides``.

    A duplicate policy that asks in the transaction of ``insert_prepared`` sees rivals of the same moment as well.
    """
    values = {"wanted": subject_key(subject), "template": template, "own": besides}
    return bool(_SUBJECT_UNDER_WAY.rows(connection, values))


def key_is_in_use(
    connection: Connection,
    spki_sha256: bytes,
    *,
    now: datetime,
    besides: int = 0,
    renewed: int | None = None,
    by_another_than: str | None = None,
) -> bool:
    """Whether a certificate of that key is valid or under way.

    Args:
        connection: inside the transaction of ``insert_prepared``, so that rivals of the same moment are seen.
        spki_sha256: of the key.
        now: by which certificates have expired.
        besides: one under way that does not count.
        renewed: one that was issued and does not count.
        by_another_than: a subject (RFC 4514 text) whose certificates do not count.
    """
    values: dict[str, Any] = {"wanted": spki_sha256, "now": to_micros(now), "own": besides, "renewed": renewed or 0}
    if by_another_than is None:
        return bool(_KEY_IN_USE.rows(connection, values))
    return bool(_KEY_OF_ANOTHER.rows(connection, {**values, "subject": subject_key(by_another_than)}))


def key_is_new(connection: Connection, spki_sha256: bytes, *, besides: int = 0) -> bool:
    """Whether no certificate ever had that key, none under way has it (but for ``besides``), and it is not blocked.

    Mostly it is so, and nothing more need be asked about the key.
    """
    return not _KEY_KNOWN.rows(connection, {"wanted": spki_sha256, "own": besides})


def key_was_compromised(connection: Connection, spki_sha256: bytes) -> bool:
    """Whether a certificate of that key was revoked here for a compromise."""
    return bool(_COMPROMISED.rows(connection, {"digest": spki_sha256}))


def mark_replaced(connection: Connection, certificate_id: int, successor_id: int) -> bool:
    """Note that a certificate was renewed by another; the first successor stays. Whether it was this one."""
    return _REPLACE.count(connection, {"number": certificate_id, "successor": successor_id}) == 1


def reserve_successor(connection: Connection, certificate_id: int, successor_id: int) -> bool:
    """Note that a certificate is being renewed by another; False where one is being made already.

    Inside a write: until its commit no other process changes the row.
    """
    # by two statements: what the first waited for is seen by the second
    rows = _SUCCESSOR.rows(connection, {"number": certificate_id})
    if rows and rows[0][0] is not None and _UNDER_WAY.rows(connection, {"number": rows[0][0]}):
        return False
    _SUCCEED.count(connection, {"number": certificate_id, "successor": successor_id})
    return True


def forget_successor(connection: Connection, certificate_id: int, successor_id: int) -> None:
    """The successor that was reserved never came to be."""
    mine = update(certificate).where(_c.id == certificate_id, _c.replaced_by == successor_id)
    connection.execute(mine.values(replaced_by=None))


def _one(connection: Connection, query: Ready, **values: object) -> Certificate | None:
    row = query.one(connection, values)
    return None if row is None else certificate_of(row)
