"""CRLs without their octets: what a scheduler, a listing and an HTTP cache ask for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, func, select, text

from pkiserver.store.authority.crls import Crl, CrlKind, next_number, raise_number
from pkiserver.store.schema.authorities import issuer
from pkiserver.store.schema.crls import crl, crl_floor, crl_scope
from pkiserver.store.times import from_micros, to_micros

_COLUMNS = (
    crl.c.number,
    crl.c.base_number,
    crl.c.this_update,
    crl.c.next_update,
    crl.c.entries,
    crl.c.status_seq,
    func.length(crl.c.der).label("octets"),
)
_ADVANCE = text(
    "INSERT INTO crl_floor (issuer_id, number) VALUES (:issuer, :number)"
    " ON CONFLICT (issuer_id) DO UPDATE SET number = excluded.number WHERE crl_floor.number < excluded.number"
)


@attrs.frozen
class CrlRecord:
    """An issued CRL, its DER left out; ``octets`` is how long that is."""

    number: int
    base_number: int | None
    this_update: datetime
    next_update: datetime
    entries: int
    status_seq: int
    octets: int


def find_scope(connection: Connection, generation_id: int, scope: str) -> int | None:
    """The number of a generation's scope; None before its first CRL. Unlike ``scope_for`` it writes nothing."""
    query = select(crl_scope.c.id).where(crl_scope.c.generation_id == generation_id, crl_scope.c.scope == scope)
    return connection.execute(query).scalar()


def records(
    connection: Connection, scope_id: int, kind: CrlKind = CrlKind.COMPLETE, *, limit: int = 100
) -> tuple[CrlRecord, ...]:
    """The CRLs that are kept, newest first."""
    query = select(*_COLUMNS).where(crl.c.scope_id == scope_id, crl.c.kind == kind.value)
    return tuple(_record(row) for row in connection.execute(query.order_by(crl.c.number.desc()).limit(limit)))


def newest(connection: Connection, scope_id: int, kind: CrlKind = CrlKind.COMPLETE) -> CrlRecord | None:
    """The newest CRL of a kind."""
    return next(iter(records(connection, scope_id, kind, limit=1)), None)


def newest_until(connection: Connection, scope_id: int, moment: datetime) -> datetime | None:
    """The thisUpdate of the newest complete CRL that was issued at or before ``moment``."""
    query = select(func.max(crl.c.this_update)).where(
        crl.c.scope_id == scope_id, crl.c.kind == CrlKind.COMPLETE.value, crl.c.this_update <= to_micros(moment)
    )
    found = connection.execute(query).scalar()
    return None if found is None else from_micros(found)


def newest_numbers(connection: Connection) -> dict[tuple[int, CrlKind], int]:
    """The number of the newest CRL of each scope and kind, from an index alone; for polling."""
    found = {}
    for kind in CrlKind:
        newest_of = (
            select(func.max(crl.c.number))
            .where(crl.c.scope_id == crl_scope.c.id, crl.c.kind == kind.value)
            .scalar_subquery()
        )
        for scope_id, number in connection.execute(select(crl_scope.c.id, newest_of)):
            if number is not None:
                found[scope_id, kind] = number
    return found


def record(connection: Connection, scope_id: int, number: int, kind: CrlKind = CrlKind.COMPLETE) -> CrlRecord | None:
    """The CRL of that number, while it is kept."""
    query = select(*_COLUMNS).where(crl.c.scope_id == scope_id, crl.c.kind == kind.value, crl.c.number == number)
    row = connection.execute(query).one_or_none()
    return None if row is None else _record(row)


def oldest_in_force(connection: Connection, scope_id: int, moment: datetime, since: int) -> CrlRecord | None:
    """The oldest complete CRL that may be relied upon at a time, of those with a number above ``since``."""
    # the unary plus keeps either engine from walking the numbers of all that are kept: those in force are fewer
    oldest = select(func.min(text("+crl.number"))).where(
        crl.c.scope_id == scope_id,
        crl.c.kind == CrlKind.COMPLETE.value,
        crl.c.next_update > to_micros(moment),
        text("+crl.number > :since AND +crl.this_update <= :moment"),
    )
    number = connection.execute(oldest, {"since": since, "moment": to_micros(moment)}).scalar()
    return None if number is None else record(connection, scope_id, number)


def next_issuer_number(connection: Connection, issuer_id: int, scope_id: int, scope: str) -> int:
    """Take the next CRL number of an issuer name and scope, above what any of its keys has used, and the floor."""
    _lock_issuer(connection, issuer_id)
    raise_number(connection, scope_id, max(_highest(connection, issuer_id, scope), floor(connection, issuer_id)))
    return next_number(connection, scope_id)


def floor(connection: Connection, issuer_id: int) -> int:
    """The number above which all new lists of an issuer name are; 0 where that was never moved."""
    return connection.execute(select(crl_floor.c.number).where(crl_floor.c.issuer_id == issuer_id)).scalar() or 0


def highest_number(connection: Connection, issuer_id: int) -> int:
    """The highest number that any list of an issuer name has taken, or that the floor has."""
    query = select(func.max(crl_scope.c.last_number)).where(crl_scope.c.issuer_id == issuer_id)
    return max(connection.execute(query).scalar() or 0, floor(connection, issuer_id))


def last_numbers(connection: Connection, issuer_id: int) -> dict[str, int]:
    """The last number that a list of an issuer name has taken, by scope."""
    query = (
        select(crl_scope.c.scope, func.max(crl_scope.c.last_number).label("number"))
        .where(crl_scope.c.issuer_id == issuer_id)
        .group_by(crl_scope.c.scope)
    )
    return {row.scope: row.number for row in connection.execute(query)}


def advance(connection: Connection, issuer_id: int, number: int) -> None:
    """Let every new list of an issuer name have a number above this one, also lists that come to be later."""
    _lock_issuer(connection, issuer_id)
    connection.execute(_ADVANCE, {"issuer": issuer_id, "number": number})


def newest_time(connection: Connection, scope_id: int) -> datetime | None:
    """The thisUpdate of the scope's newest list, of whichever kind."""
    numbers = []
    for kind in CrlKind:  # each by the primary key
        query = select(crl.c.number, crl.c.this_update).where(crl.c.scope_id == scope_id, crl.c.kind == kind.value)
        numbers += [tuple(row) for row in connection.execute(query.order_by(crl.c.number.desc()).limit(1))]
    return from_micros(max(numbers)[1]) if numbers else None


def is_later(connection: Connection, scope_id: int, issued: Crl) -> bool:
    """Whether the thisUpdate of a list is later than that of every list of its kind and scope before it."""
    query = select(crl.c.number).where(
        crl.c.scope_id == scope_id,
        crl.c.kind == issued.kind.value,
        crl.c.number < issued.number,
        crl.c.this_update >= to_micros(issued.this_update),
    )
    return connection.execute(query.limit(1)).first() is None


def use_issuer_number(connection: Connection, issuer_id: int, scope_id: int, scope: str, number: int) -> bool:
    """Take a certain number, for a CRL that was signed elsewhere; False where the sequence has passed it."""
    _lock_issuer(connection, issuer_id)
    if number <= _highest(connection, issuer_id, scope):
        return False
    raise_number(connection, scope_id, number)
    return True


def _lock_issuer(connection: Connection, issuer_id: int) -> None:
    connection.execute(select(issuer.c.id).where(issuer.c.id == issuer_id).with_for_update()).one()


def _highest(connection: Connection, issuer_id: int, scope: str) -> int:
    query = select(func.max(crl_scope.c.last_number)).where(
        crl_scope.c.issuer_id == issuer_id, crl_scope.c.scope == scope
    )
    return int(connection.execute(query).scalar() or 0)


def _record(row: Any) -> CrlRecord:
    return CrlRecord(
        number=row.number,
        base_number=row.base_number,
        this_update=from_micros(row.this_update),
        next_update=from_micros(row.next_update),
        entries=row.entries,
        status_seq=row.status_seq,
        octets=row.octets,
    )
