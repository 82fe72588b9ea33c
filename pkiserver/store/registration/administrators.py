"""Administrators: their roles and scopes, and the certificates by which they are known."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from pkiserver.store.constraints import conflicts_as
from pkiserver.store.schema.management import administrator, administrator_certificate
from pkiserver.store.times import from_micros, to_micros


@attrs.frozen
class AdministratorRow:
    """An administrator. Empty ``authorities`` and ``templates`` mean all; ``account`` is the person's own, if any."""

    name: str
    roles: tuple[str, ...]
    authorities: frozenset[str]
    templates: frozenset[str]
    groups: frozenset[str]
    account: str | None
    disabled: bool
    created: datetime
    created_by: str


@attrs.frozen
class AdministratorCertificate:
    """A certificate that shows an administrator; ``fingerprint`` is its SHA-256."""

    fingerprint: bytes
    administrator: str
    not_after: datetime
    created: datetime
    created_by: str


_a = administrator.c
_c = administrator_certificate.c
_BY_FINGERPRINT = (
    select(administrator)
    .join(administrator_certificate, _c.administrator == _a.name)
    .where(_c.fingerprint == bindparam("digest"))
)


def insert_administrator(connection: Connection, new: AdministratorRow) -> None:
    """Record an administrator; raises :class:`Rejected` where the name is taken."""
    with conflicts_as(f"an administrator named {new.name!r} exists already"):
        connection.execute(
            insert(administrator).values(
                name=new.name, created=to_micros(new.created), created_by=new.created_by, **_changeable(new)
            )
        )


def update_administrator(connection: Connection, changed: AdministratorRow) -> bool:
    """Write back everything but the name and how it came to be; whether the administrator is there."""
    change = update(administrator).where(_a.name == changed.name).values(**_changeable(changed))
    return connection.execute(change).rowcount == 1


def delete_administrator(connection: Connection, name: str) -> bool:
    """Remove an administrator and forget the certificates; whether there was one."""
    connection.execute(delete(administrator_certificate).where(_c.administrator == name))
    return connection.execute(delete(administrator).where(_a.name == name)).rowcount == 1


def get(connection: Connection, name: str, *, to_change: bool = False) -> AdministratorRow | None:
    """The administrator of that name; ``to_change``, inside a write: no other process changes it meanwhile."""
    query = select(administrator).where(_a.name == name)
    row = connection.execute(query.with_for_update() if to_change else query).one_or_none()
    return None if row is None else _administrator(row)


def by_fingerprint(connection: Connection, fingerprint: bytes) -> AdministratorRow | None:
    """Whom a certificate shows."""
    row = connection.execute(_BY_FINGERPRINT, {"digest": fingerprint}).one_or_none()
    return None if row is None else _administrator(row)


def list_page(connection: Connection, *, after: str = "", limit: int = 100) -> tuple[AdministratorRow, ...]:
    """Up to ``limit`` administrators by name, those after a name."""
    query = select(administrator).where(_a.name > after).order_by(_a.name).limit(limit)
    return tuple(_administrator(row) for row in connection.execute(query))


def bind(connection: Connection, new: AdministratorCertificate) -> None:
    """Let a certificate show an administrator; raises :class:`Rejected` where it shows somebody already."""
    with conflicts_as("this certificate shows an administrator already"):
        connection.execute(
            insert(administrator_certificate).values(
                fingerprint=new.fingerprint,
                administrator=new.administrator,
                not_after=to_micros(new.not_after),
                created=to_micros(new.created),
                created_by=new.created_by,
            )
        )


def unbind(connection: Connection, fingerprint: bytes) -> bool:
    """Let a certificate show nobody; whether it showed somebody."""
    return connection.execute(delete(administrator_certificate).where(_c.fingerprint == fingerprint)).rowcount == 1


def certificates_of(connection: Connection, name: str) -> tuple[AdministratorCertificate, ...]:
    """The certificates that show an administrator, the newest first."""
    query = select(administrator_certificate).where(_c.administrator == name).order_by(_c.created.desc())
    return tuple(
        AdministratorCertificate(
            row.fingerprint, row.administrator, from_micros(row.not_after), from_micros(row.created), row.created_by
        )
        for row in connection.execute(query)
    )


def _changeable(values: AdministratorRow) -> dict[str, object]:
    return {
        "roles": json.dumps(sorted(values.roles)),
        "authorities": json.dumps(sorted(values.authorities)),
        "templates": json.dumps(sorted(values.templates)),
        "groups": json.dumps(sorted(values.groups), ensure_ascii=False),
        "account": values.account,
        "disabled": values.disabled,
    }


def _administrator(row: Row[Any]) -> AdministratorRow:
    return AdministratorRow(
        name=row.name,
        roles=tuple(json.loads(row.roles)),
        authorities=frozenset(json.loads(row.authorities)),
        templates=frozenset(json.loads(row.templates)),
        groups=frozenset(json.loads(row.groups)),
        account=row.account,
        disabled=row.disabled,
        created=from_micros(row.created),
        created_by=row.created_by,
    )
