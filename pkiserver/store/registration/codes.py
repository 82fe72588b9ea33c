"""One-time enrolment codes: kept as a keyed hash, spent by one conditional UPDATE."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, func, insert, select, update

from pkiserver.store.names import San, sans_from_text, sans_to_text
from pkiserver.store.newest import newest_of
from pkiserver.store.ready import Ready
from pkiserver.store.schema.registration import enroll_code
from pkiserver.store.times import from_micros, optional_time, to_micros


@attrs.frozen
class NewCode:
    """A code to record, for one certificate; ``subject`` is RFC 4514 text, None for any."""

    keyed_hash: bytes = attrs.field(repr=False)
    template: str
    subject: str | None
    sans: tuple[San, ...]
    expires: datetime
    created_by: str
    created: datetime


@attrs.frozen
class Code:
    """A recorded code."""

    id: int
    template: str
    subject: str | None
    sans: tuple[San, ...]
    expires: datetime
    spent_at: datetime | None
    certificate_id: int | None
    created_by: str
    created: datetime


_c = enroll_code.c
_GONE = ""
"""The template of a code that was withdrawn or forgotten: SQLite gives the number of a deleted newest row again."""
_BY_HASH = Ready(select(enroll_code).where(_c.keyed_hash == bindparam("digest")))
_SPEND = Ready(
    update(enroll_code)
    .where(_c.id == bindparam("code_id"), _c.spent_at.is_(None), _c.expires > bindparam("now"))
    .values(spent_at=bindparam("now"))
)
_BIND = Ready(
    update(enroll_code)
    .where(_c.id == bindparam("code_id"), _c.spent_at.is_not(None), _c.certificate_id.is_(None))
    .values(certificate_id=bindparam("certificate"))
)


def insert_code(connection: Connection, code: NewCode) -> int:
    """Record a code; returns its number."""
    statement = insert(enroll_code).values(
        keyed_hash=code.keyed_hash,
        template=code.template,
        subject=code.subject,
        sans=sans_to_text(code.sans),
        expires=to_micros(code.expires),
        created_by=code.created_by,
        created=to_micros(code.created),
    )
    return int(connection.execute(statement.returning(_c.id)).scalar_one())


def by_keyed_hash(connection: Connection, keyed_hash: bytes) -> Code | None:
    """The code of that hash, spent or not."""
    row = _BY_HASH.one(connection, {"digest": keyed_hash})
    return None if row is None else _code(row)


def by_id(connection: Connection, code_id: int) -> Code | None:
    """The code of that number, spent or not."""
    known = select(enroll_code).where(_c.id == code_id, _c.template != _GONE)
    row = connection.execute(known).one_or_none()
    return None if row is None else _code(row)


def spend(connection: Connection, code_id: int, *, now: datetime) -> bool:
    """Spend a code. True for exactly one caller ever, and for nobody once it has expired."""
    return _SPEND.count(connection, {"code_id": code_id, "now": to_micros(now)}) == 1


def bind_certificate(connection: Connection, code_id: int, certificate_id: int) -> bool:
    """Note which certificate a spent code was spent for; only the first note stays."""
    return _BIND.count(connection, {"code_id": code_id, "certificate": certificate_id}) == 1


def give_back(connection: Connection, code_id: int, certificate_id: int) -> bool:
    """Make a code usable again that was spent on a certificate which never came to be; whether it was so."""
    change = update(enroll_code).where(_c.id == code_id, _c.certificate_id == certificate_id)
    return connection.execute(change.values(spent_at=None, certificate_id=None)).rowcount == 1


def release(connection: Connection, certificate_id: int) -> None:
    """The same for whatever code was spent on it."""
    change = update(enroll_code).where(_c.certificate_id == certificate_id)
    connection.execute(change.values(spent_at=None, certificate_id=None))


def list_page(
    connection: Connection,
    *,
    before: int | None = None,
    limit: int = 100,
    templates: frozenset[str] | None = None,
) -> tuple[Code, ...]:
    """Up to ``limit`` codes of these templates (None: all), newest first; those with numbers below ``before``."""
    since = _c.template != _GONE
    if before is not None:
        since = and_(since, _c.id < before)
    if templates is not None:
        parts = (and_(_c.template == name, since) for name in templates)
        return tuple(_code(row) for row in newest_of(connection, _c.id, parts, limit))
    query = select(enroll_code).where(since).order_by(_c.id.desc()).limit(limit)
    return tuple(_code(row) for row in connection.execute(query))


def revoke_code(connection: Connection, code_id: int) -> bool:
    """Withdraw a code that has not been spent; whether it was so."""
    return _blank(connection, _c.id == code_id, _c.spent_at.is_(None))


def forget_expired(connection: Connection, *, expired_before: datetime, most: int = 1000) -> int:
    """Forget up to ``most`` codes that expired before a time, whether spent or not; how many."""
    past = _c.expires < to_micros(expired_before)
    newest = select(func.max(_c.id)).scalar_subquery()
    some = select(_c.id).where(past, _c.id < newest).order_by(_c.expires).limit(most)
    gone = connection.execute(delete(enroll_code).where(_c.id.in_(some))).rowcount
    return gone if gone == most else gone + _blank(connection, past, _c.id == newest)


def _blank(connection: Connection, *which: ColumnElement[bool]) -> bool:
    """Leave nothing of a code but its number, which is not given out again: certificates and requests name it."""
    known = select(_c.id).where(*which, _c.template != _GONE)
    code_id = connection.execute(known).scalar_one_or_none()
    change = (
        update(enroll_code)
        .where(_c.id == code_id, *which)
        .values(
            keyed_hash=f"gone {code_id}".encode(),
            template=_GONE,
            subject=None,
            sans=sans_to_text(()),
            certificate_id=None,
        )
    )
    return code_id is not None and connection.execute(change).rowcount == 1


def _code(row: Any) -> Code:
    return Code(
        id=row.id,
        template=row.template,
        subject=row.subject,
        sans=sans_from_text(row.sans),
        expires=from_micros(row.expires),
        spent_at=optional_time(row.spent_at),
        certificate_id=row.certificate_id,
        created_by=row.created_by,
        created=from_micros(row.created),
    )
