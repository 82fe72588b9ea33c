"""The status feed: every revocation, hold and release, numbered without gaps in the order of commit."""

from __future__ import annotations

from datetime import datetime

import attrs
from sqlalchemy import Connection, bindparam, select

from pkiserver.store.certificates.values import CertificateState, serial_number
from pkiserver.store.outbox import Feed, current
from pkiserver.store.schema.certificates import status_change
from pkiserver.store.times import from_micros

CHANNEL = "pkiserver_status"
"""PostgreSQL's NOTIFY channel; the payload is the number of the last change. It only wakes: the feed is the truth."""


@attrs.frozen
class StatusChange:
    """One change: from ``at`` on the serial is in ``status`` (ISSUED after a release)."""

    seq: int
    issuer_id: int
    generation_id: int
    serial: int
    status: CertificateState
    at: datetime


_SINCE = (
    select(status_change)
    .where(status_change.c.seq > bindparam("seq"))
    .order_by(status_change.c.seq)
    .limit(bindparam("rows"))
)


def latest(connection: Connection) -> int:
    """The number of the last change; 0 before the first. One row, for polling."""
    return current(connection, Feed.STATUS)


def since(connection: Connection, seq: int, *, limit: int = 1000) -> tuple[StatusChange, ...]:
    """The changes after number ``seq``, in order; a gap would mean that the feed was tampered with."""
    return tuple(
        StatusChange(
            row.seq,
            row.issuer_id,
            row.generation_id,
            serial_number(row.serial),
            CertificateState(row.status),
            from_micros(row.at),
        )
        for row in connection.execute(_SINCE, {"seq": seq, "rows": limit})
    )
