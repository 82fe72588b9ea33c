"""Signing keys: name, location, public half, and the doors that the key is bound to."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, Row, bindparam, delete, insert, select

from pkiserver.store.constraints import conflicts_as
from pkiserver.store.outbox import touch_configuration
from pkiserver.store.schema.authorities import signing_key
from pkiserver.store.times import from_micros, to_micros


@attrs.frozen
class SigningKey:
    """A key's record. ``spki`` is the SubjectPublicKeyInfo in DER; ``uri`` holds no PIN."""

    name: str
    uri: str
    spki: bytes
    doors: frozenset[str]
    created: datetime

    @property
    def spki_sha256(self) -> bytes:
        """SHA-256 of :attr:`spki`, 32 octets."""
        return hashlib.sha256(self.spki).digest()


_ALL = select(signing_key).order_by(signing_key.c.name)
_ONE = select(signing_key).where(signing_key.c.name == bindparam("name"))


def insert_key(connection: Connection, key: SigningKey) -> None:
    """Record a new key; its doors never change afterwards.

    Raises:
        Rejected: the name is taken.
    """
    with conflicts_as(f"a key named {key.name!r} exists already"):
        connection.execute(
            insert(signing_key),
            {
                "name": key.name,
                "uri": key.uri,
                "spki": key.spki,
                "spki_sha256": key.spki_sha256,
                "doors": " ".join(sorted(key.doors)),
                "created": to_micros(key.created),
            },
        )
    touch_configuration(connection)


def get(connection: Connection, name: str) -> SigningKey | None:
    """The key of that name."""
    row = connection.execute(_ONE, {"name": name}).one_or_none()
    return None if row is None else _key(row)


def list_all(connection: Connection) -> tuple[SigningKey, ...]:
    """Every key, by name."""
    return tuple(_key(row) for row in connection.execute(_ALL))


def delete_key(connection: Connection, name: str) -> bool:
    """Forget a key; whether there was one."""
    done = connection.execute(delete(signing_key).where(signing_key.c.name == name)).rowcount == 1
    if done:
        touch_configuration(connection)
    return done


def _key(row: Row[Any]) -> SigningKey:
    return SigningKey(row.name, row.uri, row.spki, frozenset(row.doors.split()), from_micros(row.created))
