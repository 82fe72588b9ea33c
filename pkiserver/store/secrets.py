"""Secrets that all nodes share, such as the key under which enrolment codes are hashed."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, bindparam, select, text

from pkiserver.foundation.secret import Secret
from pkiserver.store.schema.shared import server_secret
from pkiserver.store.times import to_micros

_ADD = text(
    "INSERT INTO server_secret (name, value, created) VALUES (:name, :value, :created) ON CONFLICT (name) DO NOTHING"
)
_ONE = select(server_secret.c.value).where(server_secret.c.name == bindparam("secret_name"))


def get(connection: Connection, name: str) -> Secret | None:
    """The secret of that name."""
    value = connection.execute(_ONE, {"secret_name": name}).scalar_one_or_none()
    return None if value is None else Secret(value)


def get_or_put(connection: Connection, name: str, new: Secret, *, now: datetime) -> Secret:
    """The secret of that name; ``new`` becomes it where there is none. All processes get the same."""
    connection.execute(_ADD, {"name": name, "value": new.reveal(), "created": to_micros(now)})
    found = get(connection, name)
    assert found is not None
    return found
