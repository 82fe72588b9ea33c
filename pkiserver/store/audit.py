"""The audit log's tables: writers with their heads, events, checkpoints. What the rows mean: :mod:`pkiserver.audit`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Literal

import attrs
from sqlalchemy import Connection, Row, bindparam, func, insert, or_, select, text, tuple_, update

from pkiserver.store.constraints import conflicts_as
from pkiserver.store.ready import Ready
from pkiserver.store.schema.audit import audit_checkpoint, audit_event, audit_writer
from pkiserver.store.times import from_micros, to_micros


@attrs.frozen
class WriterRow:
    """One chain: written by one process from its start to its end. ``head_seq`` is 0 while the chain is empty.

    ``checkpoint_seq`` is the head that the newest checkpoint naming this chain has, None before the first.
    """

    id: int
    node: str
    worker: str
    started: datetime
    head_seq: int
    head_hash: bytes
    checkpoint_seq: int | None


@attrs.frozen
class EventRow:
    """One link of a chain, as stored; ``at`` is in microseconds since 1970, ``details`` is JSON text."""

    writer_id: int
    seq: int
    at: int
    kind: str
    actor: str
    object: str
    outcome: str
    request_id: str | None
    details: str
    prev_hash: bytes
    hash: bytes


@attrs.frozen
class CheckpointRow:
    """A signed statement about heads, as stored; ``heads`` is the JSON text that was signed."""

    id: int
    at: int
    heads: str
    prev_hash: bytes
    hash: bytes
    key_name: str
    scheme: str
    signature: bytes


_w, _e = audit_writer.c, audit_event.c
_FIELDS = tuple(attribute.name for attribute in attrs.fields(EventRow))
_INSERT = Ready(insert(audit_event), columns=_FIELDS)
_MOVE = Ready(
    update(audit_writer)
    .where(_w.id == bindparam("writer"), _w.head_seq == bindparam("old_seq"), _w.head_hash == bindparam("old_hash"))
    .values(head_seq=bindparam("new_seq"), head_hash=bindparam("new_hash"))
)
_STEP = 2000
_SETTINGS = text("audit_event.kind IN ('account', 'configuration')")
"""Written out, so that the engine sees that the partial index serves."""


def add_writer(connection: Connection, *, node: str, worker: str, started: datetime) -> int:
    """Record a new chain with an empty head; returns its number. :func:`set_genesis` must follow."""
    values = {
        "node": node,
        "worker": worker,
        "started": to_micros(started),
        "head_seq": 0,
        "head_hash": b"",
    }
    return int(connection.execute(insert(audit_writer).values(**values).returning(_w.id)).scalar_one())


def set_genesis(connection: Connection, writer_id: int, genesis: bytes) -> None:
    """Give a chain that has no event the hash that its first event continues."""
    connection.execute(update(audit_writer).where(_w.id == writer_id, _w.head_seq == 0).values(head_hash=genesis))


def append(connection: Connection, events: Sequence[EventRow], *, old_seq: int, old_hash: bytes) -> bool:
    """Add links to one chain and move its head from where it was; False where the head is elsewhere."""
    last = events[-1]
    _INSERT.many(connection, [{name: getattr(event, name) for name in _FIELDS} for event in events])
    moved = _MOVE.count(
        connection,
        {
            "writer": last.writer_id,
            "old_seq": old_seq,
            "old_hash": old_hash,
            "new_seq": last.seq,
            "new_hash": last.hash,
        },
    )
    return moved == 1


def head(connection: Connection, writer_id: int) -> tuple[int, bytes] | None:
    """A chain's head: the number and hash of its last event."""
    row = connection.execute(select(_w.head_seq, _w.head_hash).where(_w.id == writer_id)).one_or_none()
    return None if row is None else (row.head_seq, row.head_hash)


def writers(connection: Connection) -> Iterator[WriterRow]:
    """Every chain, by number, in steps."""
    last = 0
    while True:
        rows = connection.execute(select(audit_writer).where(_w.id > last).order_by(_w.id).limit(_STEP)).all()
        for row in rows:
            yield _writer(row)
        if len(rows) < _STEP:
            return
        last = rows[-1].id


def writers_to_checkpoint(connection: Connection) -> tuple[WriterRow, ...]:
    """The chains whose head moved since the last checkpoint that names them, by number."""
    moved = or_(_w.checkpoint_seq.is_(None), _w.checkpoint_seq < _w.head_seq)
    return tuple(_writer(row) for row in connection.execute(select(audit_writer).where(moved).order_by(_w.id)))


def events(connection: Connection, writer_id: int) -> Iterator[EventRow]:
    """Every event of one chain, in order, in steps."""
    last = 0
    while True:
        query = select(audit_event).where(_e.writer_id == writer_id, _e.seq > last)
        rows = connection.execute(query.order_by(_e.seq).limit(_STEP)).all()
        for row in rows:
            yield _event(row)
        if len(rows) < _STEP:
            return
        last = rows[-1].seq


def next_chain(connection: Connection, after: int) -> int | None:
    """The lowest number of a chain above ``after`` that has an event."""
    return connection.execute(select(func.min(_e.writer_id)).where(_e.writer_id > after)).scalar()


def event(connection: Connection, writer_id: int, seq: int) -> EventRow | None:
    """One event."""
    row = connection.execute(select(audit_event).where(_e.writer_id == writer_id, _e.seq == seq)).one_or_none()
    return None if row is None else _event(row)


def newest_events(
    connection: Connection, *, limit: int, after: tuple[int, int, int] | None = None
) -> tuple[EventRow, ...]:
    """The newest events of all chains by time, oldest of them first; or the next after (time, chain, number)."""
    order = (_e.at, _e.writer_id, _e.seq)
    query = select(audit_event).limit(limit)
    if after is not None:
        rows = connection.execute(query.where(tuple_(*order) > tuple_(*after)).order_by(*order)).all()
        return tuple(_event(row) for row in rows)
    rows = connection.execute(query.order_by(*(column.desc() for column in order))).all()
    return tuple(_event(row) for row in reversed(rows))


def events_between(connection: Connection, start: int, end: int) -> Iterator[EventRow]:
    """Every event with ``start`` <= time < ``end`` (microseconds since 1970) by time, in steps."""
    order = (_e.at, _e.writer_id, _e.seq)
    position = (start, 0, 0)
    while True:
        query = select(audit_event).where(tuple_(*order) > tuple_(*position), _e.at < end)
        rows = connection.execute(query.order_by(*order).limit(_STEP)).all()
        for row in rows:
            yield _event(row)
        if len(rows) < _STEP:
            return
        position = (rows[-1].at, rows[-1].writer_id, rows[-1].seq)


def events_of_settings(connection: Connection, kind: Literal["account", "configuration"]) -> Iterator[EventRow]:
    """Every event of a kind that says what was set, by time: few beside those of certificates, and indexed."""
    query = select(audit_event).where(_e.kind == kind, _SETTINGS).order_by(_e.at, _e.writer_id, _e.seq)
    for row in connection.execute(query.execution_options(yield_per=_STEP)):
        yield _event(row)


def last_checkpoint(connection: Connection) -> CheckpointRow | None:
    """The newest checkpoint."""
    newest = select(func.max(audit_checkpoint.c.id)).scalar_subquery()
    row = connection.execute(select(audit_checkpoint).where(audit_checkpoint.c.id == newest)).one_or_none()
    return None if row is None else _checkpoint(row)


def checkpoints(connection: Connection) -> Iterator[CheckpointRow]:
    """Every checkpoint, by number, one by one."""
    last = 0
    while True:
        query = select(audit_checkpoint).where(audit_checkpoint.c.id > last).order_by(audit_checkpoint.c.id)
        rows = connection.execute(query.limit(100)).all()
        for row in rows:
            yield _checkpoint(row)
        if len(rows) < 100:
            return
        last = rows[-1].id


def add_checkpoint(connection: Connection, row: CheckpointRow, heads: Iterable[tuple[int, int]]) -> None:
    """Keep a checkpoint and note on each chain (number, head) that it names it.

    Raises:
        Rejected: another process made a checkpoint at the same moment.
    """
    with conflicts_as("another process has just made a checkpoint"):
        connection.execute(insert(audit_checkpoint), attrs.asdict(row))
    for writer_id, seq in heads:
        connection.execute(update(audit_writer).where(_w.id == writer_id).values(checkpoint_seq=seq))


def _writer(row: Row[Any]) -> WriterRow:
    return WriterRow(
        row.id, row.node, row.worker, from_micros(row.started), row.head_seq, row.head_hash, row.checkpoint_seq
    )


def _event(row: Row[Any]) -> EventRow:
    return EventRow(*(getattr(row, name) for name in _FIELDS))


def _checkpoint(row: Row[Any]) -> CheckpointRow:
    return CheckpointRow(row.id, row.at, row.heads, row.prev_hash, row.hash, row.key_name, row.scheme, row.signature)
