"""Operations that more than one person must agree on, from the wish to the deed."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, Row, and_, delete, false, func, insert, or_, select, update

from pkiserver.store.names import printable
from pkiserver.store.registration import votes
from pkiserver.store.schema.management import operation
from pkiserver.store.times import from_micros, optional_time, to_micros


class OperationState(enum.StrEnum):
    """pending -> approved | denied | expired; approved -> done | failed | expired."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"


@attrs.frozen
class OperationRow:
    """An operation. ``payload`` is registration's own text, ``digest`` what is voted on; ``id`` 0: not kept."""

    id: int
    kind: str
    object: str
    payload: str = attrs.field(repr=False)
    digest: bytes
    state: OperationState
    reason: str
    requested_by: str
    needed: int
    approvers: tuple[str, ...]
    created: datetime
    expires: datetime
    settled: datetime | None = None
    outcome: str = ""


_c = operation.c


def insert_operation(connection: Connection, new: OperationRow) -> int:
    """Keep a pending operation; returns its number."""
    statement = insert(operation).values(
        kind=new.kind,
        object=new.object,
        payload=new.payload,
        digest=new.digest,
        state=OperationState.PENDING.value,
        reason=printable(new.reason),
        requested_by=new.requested_by,
        needed=new.needed,
        approvers=json.dumps(new.approvers),
        created=to_micros(new.created),
        expires=to_micros(new.expires),
        outcome="",
    )
    return int(connection.execute(statement.returning(_c.id)).scalar_one())


def get(connection: Connection, number: int) -> OperationRow | None:
    """The operation of that number."""
    row = connection.execute(select(operation).where(_c.id == number)).one_or_none()
    return None if row is None else _operation(row)


def lock(connection: Connection, number: int) -> OperationRow | None:
    """The operation of that number, whose row nobody else changes until this write ends."""
    row = connection.execute(select(operation).where(_c.id == number).with_for_update()).one_or_none()
    return None if row is None else _operation(row)


def move(
    connection: Connection,
    number: int,
    *,
    old: OperationState,
    new: OperationState,
    at: datetime,
    outcome: str = "",
) -> bool:
    """From one state to another, by one conditional UPDATE; whether it was in the old one."""
    change = update(operation).where(_c.id == number, _c.state == old.value)
    values = {"state": new.value, "settled": to_micros(at), "outcome": printable(outcome)}
    return connection.execute(change.values(**values)).rowcount == 1


def expire(connection: Connection, *, now: datetime) -> tuple[tuple[int, str, str], ...]:
    """Let pending and approved operations past their time expire; number, kind and object of each."""
    change = update(operation).where(_c.state.in_(("pending", "approved")), _c.expires <= to_micros(now))
    ended = connection.execute(change.values(state=OperationState.EXPIRED.value).returning(_c.id, _c.kind, _c.object))
    return tuple((row.id, row.kind, row.object) for row in ended)


def forget_ended(connection: Connection, *, ended_before: datetime, most: int = 1000) -> int:
    """Remove up to ``most`` operations that ended and whose time was over before then, with their votes.

    The newest row stays whatever it is, so that no number is ever given out again. Returns how many were removed.
    """
    newest = select(func.max(_c.id)).scalar_subquery()
    ended = select(_c.id).where(
        _c.state.in_(("denied", "done", "failed", "expired")), _c.expires < to_micros(ended_before), _c.id < newest
    )
    numbers = tuple(connection.execute(ended.order_by(_c.id).limit(most)).scalars())
    votes.forget(connection, "operation", numbers)
    connection.execute(delete(operation).where(_c.id.in_(numbers)))
    return len(numbers)


def list_page(
    connection: Connection,
    *,
    state: OperationState | None = None,
    before: int | None = None,
    limit: int = 100,
    objects: Mapping[str, frozenset[str]] | None = None,
) -> tuple[OperationRow, ...]:
    """Up to ``limit`` operations in a state (None for any), newest first; those with numbers below ``before``.

    ``objects``: only operations of these kinds, each on these objects.
    """
    query = select(operation).order_by(_c.id.desc()).limit(limit)
    if state is not None:
        query = query.where(_c.state == state.value)
    if before is not None:
        query = query.where(_c.id < before)
    if objects is not None:
        kinds = (and_(_c.kind == kind, _c.object.in_(sorted(names))) for kind, names in objects.items())
        query = query.where(or_(false(), *kinds))
    return tuple(_operation(row) for row in connection.execute(query))


def _operation(row: Row[Any]) -> OperationRow:
    return OperationRow(
        id=row.id,
        kind=row.kind,
        object=row.object,
        payload=row.payload,
        digest=row.digest,
        state=OperationState(row.state),
        reason=row.reason,
        requested_by=row.requested_by,
        needed=row.needed,
        approvers=tuple(json.loads(row.approvers)),
        created=from_micros(row.created),
        expires=from_micros(row.expires),
        settled=optional_time(row.settled),
        outcome=row.outcome,
    )
