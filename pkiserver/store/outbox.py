"""Feeds: what every process must learn of, numbered in the order of commit.

A sequence of the database numbers rows in the order of insertion, so a reader that asks for "everything after n" could
miss a row whose transaction commits late. Here the number comes from a counter row, taken as the last thing before
commit: the row's lock makes the order of numbers the order of commits, without a gap, on every engine.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs
from sqlalchemy import Connection, bindparam, insert, select, text, update

from pkiserver.store.publication import outward
from pkiserver.store.ready import Ready
from pkiserver.store.schema.addressbook import addressbook_change
from pkiserver.store.schema.certificates import status_change
from pkiserver.store.schema.shared import feed_clock
from pkiserver.store.writer import require_writing

_GATHERED = "pkiserver.gathered"


class Feed(enum.StrEnum):
    """The counters; on PostgreSQL a NOTIFY on channel ``pkiserver_<feed>`` follows each advance."""

    STATUS = "status"
    CONFIGURATION = "configuration"
    ADDRESSBOOK = "addressbook"


@attrs.define
class _Gathered:
    statuses: list[dict[str, object]] = attrs.field(factory=list)
    configuration: int = 0
    addresses: dict[str, None] = attrs.field(factory=dict)
    outward: set[str] = attrs.field(factory=set)


_ADVANCE = Ready(
    update(feed_clock)
    .where(feed_clock.c.name == bindparam("feed"))
    .values(value=feed_clock.c.value + bindparam("step"))
    .returning(feed_clock.c.value)
)
_INSERT = Ready(insert(status_change), columns=[column.name for column in status_change.columns])
_INSERT_ADDRESS = insert(addressbook_change)
_CURRENT = select(feed_clock.c.value).where(feed_clock.c.name == bindparam("feed"))


class Outbox:
    """Follows the writer's transactions and writes the gathered feed rows as the last thing before commit."""

    def begun(self, connection: Connection) -> None:
        """Start with nothing gathered."""
        connection.info[_GATHERED] = _Gathered()

    def flush(self, connection: Connection) -> None:
        """Number and write what was gathered."""
        gathered: _Gathered = connection.info[_GATHERED]
        if gathered.configuration:
            _advance(connection, Feed.CONFIGURATION, gathered.configuration)
        if gathered.statuses:
            last = _advance(connection, Feed.STATUS, len(gathered.statuses))
            first = last - len(gathered.statuses) + 1
            for seq, row in enumerate(gathered.statuses, first):
                row["seq"] = seq
            _INSERT.many(connection, gathered.statuses)
        if gathered.addresses:
            last = _advance(connection, Feed.ADDRESSBOOK, len(gathered.addresses))
            first = last - len(gathered.addresses) + 1
            rows = [{"seq": seq, "address": address} for seq, address in enumerate(gathered.addresses, first)]
            connection.execute(_INSERT_ADDRESS, rows)
        # Last, behind the counters' locks: transactions that tell of the same addresses come here one by one.
        changed = gathered.outward.union(gathered.addresses)
        if changed and (names := outward.directories(connection)):
            outward.enqueue(connection, map(outward.directory_key, names), changed)

    def committed(self) -> None:
        """Nothing is kept."""

    def undone(self) -> None:
        """Nothing is kept."""


def gather_status(connection: Connection, row: dict[str, object]) -> None:
    """Add a row of ``status_change`` (without its number) to the transaction under way."""
    require_writing(connection)
    connection.info[_GATHERED].statuses.append(row)


def gather_addresses(connection: Connection, addresses: Iterable[str]) -> None:
    """Say in the transaction under way that what the address book shows for these addresses may be another."""
    require_writing(connection)
    connection.info[_GATHERED].addresses.update(dict.fromkeys(addresses))


def gather_outward(connection: Connection, addresses: Iterable[str]) -> None:
    """Say in the transaction under way that a certificate of these addresses has another status."""
    require_writing(connection)
    connection.info[_GATHERED].outward.update(addresses)


def touch_configuration(connection: Connection) -> None:
    """Say in the transaction under way that a shared configuration object changed."""
    require_writing(connection)
    connection.info[_GATHERED].configuration += 1


def current(connection: Connection, feed: Feed) -> int:
    """The number of the last committed change of a feed; 0 before the first."""
    return int(connection.execute(_CURRENT, {"feed": feed.value}).scalar_one())


def _advance(connection: Connection, feed: Feed, step: int) -> int:
    ((value,),) = _ADVANCE.rows(connection, {"feed": feed.value, "step": step})
    if connection.dialect.name == "postgresql":
        connection.execute(
            text("SELECT pg_notify(:channel, :value)"), {"channel": f"pkiserver_{feed}", "value": str(value)}
        )
    return int(value)
