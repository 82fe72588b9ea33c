"""Configuration objects that all nodes share (templates, connectors, ...), each as its TOML text with a revision."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NoReturn

import attrs
from sqlalchemy import Connection, Row, delete, insert, select, update

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.constraints import conflicts_as
from pkiserver.store.outbox import touch_configuration
from pkiserver.store.schema.authorities import config_object
from pkiserver.store.times import from_micros, to_micros

TEMPLATE = "template"
"""The kind of certificate templates."""

_TURN = (
    select(config_object.c.name)
    .where(config_object.c.kind == TEMPLATE)
    .order_by(config_object.c.name)
    .limit(1)
    .with_for_update(key_share=True)
)


@attrs.frozen
class ConfigObject:
    """A named object of one kind; ``revision`` counts its changes from 1."""

    kind: str
    name: str
    revision: int
    toml: str
    updated: datetime


def put(
    connection: Connection, name: str, toml: str, *, now: datetime, expected: int | None, kind: str = TEMPLATE
) -> ConfigObject:
    """Create an object (``expected`` None) or replace its revision ``expected``; one conditional statement.

    Raises:
        Rejected: the object exists already, or somebody else changed or removed it meanwhile.
    """
    if expected is None:
        with conflicts_as(f"{kind} {name!r} exists already"):
            connection.execute(
                insert(config_object),
                {"kind": kind, "name": name, "revision": 1, "toml": toml, "updated": to_micros(now)},
            )
    else:
        change = (
            update(config_object)
            .where(config_object.c.kind == kind, config_object.c.name == name, config_object.c.revision == expected)
            .values(revision=expected + 1, toml=toml, updated=to_micros(now))
        )
        if connection.execute(change).rowcount != 1:
            _refuse_changed(kind, name)
    touch_configuration(connection)
    return ConfigObject(kind, name, (expected or 0) + 1, toml, now)


def remove(connection: Connection, name: str, *, expected: int, kind: str = TEMPLATE) -> None:
    """Remove revision ``expected`` of an object.

    Raises:
        Rejected: somebody else changed or removed it meanwhile.
    """
    change = delete(config_object).where(
        config_object.c.kind == kind, config_object.c.name == name, config_object.c.revision == expected
    )
    if connection.execute(change).rowcount != 1:
        _refuse_changed(kind, name)
    touch_configuration(connection)


def get(connection: Connection, name: str, *, kind: str = TEMPLATE) -> ConfigObject | None:
    """The object of that kind and name."""
    row = connection.execute(
        select(config_object).where(config_object.c.kind == kind, config_object.c.name == name)
    ).one_or_none()
    return None if row is None else _object(row)


def list_all(connection: Connection, *, kind: str = TEMPLATE) -> tuple[ConfigObject, ...]:
    """Every object of a kind, by name."""
    rows = connection.execute(select(config_object).where(config_object.c.kind == kind).order_by(config_object.c.name))
    return tuple(_object(row) for row in rows)


def list_kinds(connection: Connection) -> tuple[str, ...]:
    """The kinds of which there is an object."""
    rows = connection.execute(select(config_object.c.kind).distinct().order_by(config_object.c.kind))
    return tuple(row[0] for row in rows)


def take_turn(connection: Connection) -> None:
    """Inside a write: wait until no other process is in one that has taken its turn here, and let the others wait.

    What they have written can be seen then. It is one turn for all templates, and for all that templates limit: a
    transaction holds the work of many requests, and those who waited for several turns, in whatever order, would wait
    for each other.
    """
    connection.execute(_TURN)


def _refuse_changed(kind: str, name: str) -> NoReturn:
    """Refuse a change to something that is no longer what its editor saw."""
    raise Rejected.because(Refusal.CONFLICT, f"{kind} {name!r} was changed or removed meanwhile; look at it again")


def _object(row: Row[Any]) -> ConfigObject:
    return ConfigObject(row.kind, row.name, row.revision, row.toml, from_micros(row.updated))
