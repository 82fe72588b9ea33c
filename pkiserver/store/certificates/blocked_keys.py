"""Public keys that no certificate may hold, by SHA-256 of their SubjectPublicKeyInfo."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import attrs
from sqlalchemy import Connection, bindparam, delete, select, text

from pkiserver.store.names import printable
from pkiserver.store.ready import Ready
from pkiserver.store.schema.certificates import blocked_key
from pkiserver.store.times import from_micros, to_micros


@attrs.frozen
class BlockedKey:
    """A blocked key; ``spki_sha256`` is 32 octets."""

    spki_sha256: bytes
    why: str
    added: datetime


_ADD = text(
    "INSERT INTO blocked_key (spki_sha256, why, added) VALUES (:digest, :why, :added)"
    " ON CONFLICT (spki_sha256) DO NOTHING"
)
_ONE = Ready(select(blocked_key).where(blocked_key.c.spki_sha256 == bindparam("digest")))


def add_many(connection: Connection, digests: Iterable[bytes], *, why: str, now: datetime) -> int:
    """Block keys; those blocked before keep their reason. Returns how many were given."""
    rows = [{"digest": digest, "why": printable(why), "added": to_micros(now)} for digest in set(digests)]
    if rows:
        connection.execute(_ADD, rows)
    return len(rows)


def get(connection: Connection, spki_sha256: bytes) -> BlockedKey | None:
    """Why a key is blocked; None where it is not."""
    row = _ONE.one(connection, {"digest": spki_sha256})
    return None if row is None else BlockedKey(row.spki_sha256, row.why, from_micros(row.added))


def remove(connection: Connection, spki_sha256: bytes) -> bool:
    """Unblock a key; whether it was blocked."""
    return connection.execute(delete(blocked_key).where(blocked_key.c.spki_sha256 == spki_sha256)).rowcount == 1


def list_page(connection: Connection, *, after: bytes = b"", limit: int = 100) -> tuple[BlockedKey, ...]:
    """Up to ``limit`` blocked keys in the order of their digests, those after one."""
    column = blocked_key.c.spki_sha256
    query = select(blocked_key).where(column > after).order_by(column).limit(limit)
    return tuple(BlockedKey(row.spki_sha256, row.why, from_micros(row.added)) for row in connection.execute(query))
