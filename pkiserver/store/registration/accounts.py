"""Accounts of requesters: a password's hash, groups, attributes."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from pkiserver.store.constraints import conflicts_as
from pkiserver.store.outbox import touch_configuration
from pkiserver.store.ready import Ready
from pkiserver.store.schema.registration import account
from pkiserver.store.times import from_micros, to_micros


@attrs.frozen
class Account:
    """An account. ``password_hash`` is an encoded argon2id hash, None where no password opens it."""

    name: str
    password_hash: str | None = attrs.field(repr=False)
    groups: frozenset[str]
    attributes: tuple[tuple[str, str], ...]
    disabled: bool
    created: datetime


_QUERY = select(account).where(account.c.name == bindparam("account_name"))
_ONE, _ONE_TO_CHANGE = Ready(_QUERY), Ready(_QUERY.with_for_update())
_ONE_TO_KEEP = Ready(_QUERY.with_only_columns(account.c.name).with_for_update(read=True, key_share=True))


def insert_account(connection: Connection, new: Account) -> None:
    """Record a new account.

    Raises:
        Rejected: the name is taken.
    """
    with conflicts_as(f"an account named {new.name!r} exists already"):
        values = {"name": new.name, "created": to_micros(new.created), **_changeable(new)}
        connection.execute(insert(account), values)
    touch_configuration(connection)


def update_account(connection: Connection, changed: Account) -> bool:
    """Write back everything but name and time; whether the account is there."""
    change = update(account).where(account.c.name == changed.name).values(**_changeable(changed))
    done = connection.execute(change).rowcount == 1
    if done:
        touch_configuration(connection)
    return done


def replace_hash(connection: Connection, name: str, *, old: str, new: str) -> bool:
    """Put a stronger hash of the same password in the old one's place, unless the password changed meanwhile."""
    change = update(account).where(account.c.name == name, account.c.password_hash == old).values(password_hash=new)
    return connection.execute(change).rowcount == 1


def delete_account(connection: Connection, name: str) -> bool:
    """Remove an account; whether there was one."""
    if get(connection, name) is None:
        return False
    done = connection.execute(delete(account).where(account.c.name == name)).rowcount == 1
    if done:
        touch_configuration(connection)
    return done


def get(connection: Connection, name: str, *, to_change: bool = False) -> Account | None:
    """The account of that name; ``to_change``, inside a write: no other process changes it meanwhile."""
    if "\x00" in name:
        return None  # no account is called so, and PostgreSQL cannot even be asked
    row = (_ONE_TO_CHANGE if to_change else _ONE).one(connection, {"account_name": name})
    return None if row is None else _account(row)


def keep(connection: Connection, name: str) -> bool:
    """Whether there is such an account, which nobody deletes until this write ends."""
    return bool(_ONE_TO_KEEP.rows(connection, {"account_name": name}))


def list_page(connection: Connection, *, after: str = "", limit: int = 100) -> tuple[Account, ...]:
    """Up to ``limit`` accounts by name, those after a name."""
    query = select(account).where(account.c.name > after).order_by(account.c.name).limit(limit)
    return tuple(_account(row) for row in connection.execute(query))


def _changeable(values: Account) -> dict[str, object]:
    return {
        "password_hash": values.password_hash,
        "groups": json.dumps(sorted(values.groups), ensure_ascii=False),
        "attributes": json.dumps(values.attributes, ensure_ascii=False),
        "disabled": values.disabled,
    }


def _account(row: Any) -> Account:
    return Account(
        name=row.name,
        password_hash=row.password_hash,
        groups=frozenset(json.loads(row.groups)),
        attributes=tuple((key, value) for key, value in json.loads(row.attributes)),
        disabled=bool(row.disabled),
        created=from_micros(row.created),
    )
