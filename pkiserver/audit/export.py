"""Getting the audit log out: JSON lines for machines, single lines for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Connection

from pkiserver.audit.events import plain
from pkiserver.store import audit as rows
from pkiserver.store.times import from_micros, to_micros

_END_OF_TIME = 2**63 - 1


def export(connection: Connection, *, start: datetime | None = None, end: datetime | None = None) -> Iterator[str]:
    """The log as JSON lines (one object a line, ASCII, no line break within): events by time, then the checkpoints.

    Without ``start`` and ``end`` the lines hold all that verifying them needs, as :mod:`pkiserver.audit.chain` says.

    Args:
        connection: Of one read.
        start: Only events from this time on.
        end: Only events before this time.
    """
    for writer in rows.writers(connection):
        yield _line(
            "writer",
            {
                "writer": writer.id,
                "node": writer.node,
                "worker": writer.worker,
                "started": to_micros(writer.started),
                "head_seq": writer.head_seq,
                "head_hash": writer.head_hash.hex(),
            },
        )
    first = 0 if start is None else to_micros(start)
    last = _END_OF_TIME if end is None else to_micros(end)
    for row in rows.events_between(connection, first, last):
        yield event_line(row)
    for checkpoint in rows.checkpoints(connection):
        yield _line(
            "checkpoint",
            {
                "checkpoint": checkpoint.id,
                "at": checkpoint.at,
                "text": checkpoint.heads,
                "key": checkpoint.key_name,
                "scheme": checkpoint.scheme,
                "signature": checkpoint.signature.hex(),
            },
        )


def event_line(row: rows.EventRow) -> str:
    """One event as a JSON line; ``details_text`` is the octets that were hashed, ``details`` the same to read."""
    return _line(
        "event",
        {
            "writer": row.writer_id,
            "seq": row.seq,
            "at": row.at,
            "time": from_micros(row.at).isoformat(),
            "kind": row.kind,
            "actor": row.actor,
            "object": row.object,
            "outcome": row.outcome,
            "request_id": row.request_id,
            "details": details_of(row),
            "details_text": row.details,
            "prev_hash": row.prev_hash.hex(),
            "hash": row.hash.hex(),
        },
    )


def text_line(row: rows.EventRow) -> str:
    """One event as a line to read; whatever the database holds, it is one line and drives no terminal."""
    parts = [
        f"{from_micros(row.at):%Y-%m-%dT%H:%M:%S.%fZ}",
        f"{row.writer_id}/{row.seq}",
        row.kind,
        row.outcome,
        f"actor={json.dumps(row.actor, ensure_ascii=False)}",
        f"object={json.dumps(row.object, ensure_ascii=False)}",
    ]
    if row.request_id is not None:
        parts.append(f"request={row.request_id}")
    parts += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in details_of(row).items()]
    return plain(" ".join(parts))


def details_of(row: rows.EventRow) -> dict[str, str]:
    """An event's details by name; a row that somebody broke shows its text as ``unreadable``."""
    try:
        return {str(name): str(value) for name, value in json.loads(row.details)}
    except (ValueError, TypeError):
        return {"unreadable": row.details}


def _line(what: str, content: dict[str, object]) -> str:
    return json.dumps({"type": what, **content}, ensure_ascii=True, separators=(",", ":"))
