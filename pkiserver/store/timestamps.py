"""Time-stamping: blocks of serial numbers that no two processes share, and the chained log of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, Row, bindparam, func, insert, select, text

from pkiserver.store.schema.timestamps import timestamp_entry
from pkiserver.store.times import from_micros, to_micros


@attrs.frozen
class Entry:
    """One token in the log. ``token`` is its DER where tokens are kept; ``hash`` covers all else and ``prev_hash``."""

    chain: int
    number: int
    unit: str
    at: datetime
    serial: bytes
    imprint_hash: str
    imprint: bytes
    token_sha256: bytes
    prev_hash: bytes
    hash: bytes
    token: bytes | None = attrs.field(default=None, repr=False)


_NEXT_BLOCK = text(
    "INSERT INTO timestamp_block (name, last) VALUES (:name, 1)"
    " ON CONFLICT (name) DO UPDATE SET last = timestamp_block.last + 1 RETURNING last"
)
_c = timestamp_entry.c
_INSERT = insert(timestamp_entry)
_BY_SERIAL = select(timestamp_entry).where(_c.serial == bindparam("wanted")).order_by(_c.chain, _c.number)
_CHAINS = select(_c.chain, func.count()).group_by(_c.chain).order_by(_c.chain)
_CHAIN = select(timestamp_entry).where(_c.chain == bindparam("wanted")).order_by(_c.number)


def next_block(connection: Connection, name: str = "serial") -> int:
    """A number that is given out once, from 1."""
    number: int = connection.execute(_NEXT_BLOCK, {"name": name}).scalar_one()
    return number


def append(connection: Connection, entries: Sequence[Entry]) -> None:
    """Write entries; the key refuses a number that its chain has already."""
    rows = [{**attrs.asdict(one, recurse=False), "at": to_micros(one.at)} for one in entries]
    connection.execute(_INSERT, rows)


def by_serial(connection: Connection, serial: bytes) -> tuple[Entry, ...]:
    """What the log has about a serial number (its octets)."""
    return tuple(_entry(row) for row in connection.execute(_BY_SERIAL, {"wanted": serial}))


def chains(connection: Connection) -> tuple[tuple[int, int], ...]:
    """Every chain and the number of its entries."""
    return tuple((row[0], row[1]) for row in connection.execute(_CHAINS))


def read_chain(connection: Connection, chain: int) -> Iterator[Entry]:
    """The entries of a chain in order, streamed."""
    rows = connection.execution_options(yield_per=1000).execute(_CHAIN, {"wanted": chain})
    return (_entry(row) for row in rows)


def _entry(row: Row[Any]) -> Entry:
    return Entry(**{**row._mapping, "at": from_micros(row.at)})  # noqa: SLF001 - SQLAlchemy's public name
