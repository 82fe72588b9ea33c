"""CRL scopes with their rising numbers, and the CRLs issued in them (RFC 5280 section 5.2.3)."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, text, update

from pkiserver.foundation.errors import Defect
from pkiserver.store.constraints import conflicts_as
from pkiserver.store.schema import crl, crl_scope
from pkiserver.store.times import from_micros, to_micros

FULL_SCOPE = "full"
"""The scope of a generation's complete CRL."""


class CrlKind(enum.StrEnum):
    """Complete and delta CRLs share one sequence of numbers."""

    COMPLETE = "complete"
    DELTA = "delta"


@attrs.frozen
class CrlScope:
    """What a sequence of CRLs covers; ``last_number`` is 0 before the first."""

    id: int
    issuer_id: int
    generation_id: int
    scope: str
    last_number: int


@attrs.frozen
class Crl:
    """An issued CRL. ``status_seq`` is the last change of the status feed that it may be relied on to show."""

    scope_id: int
    kind: CrlKind
    number: int
    base_number: int | None
    this_update: datetime
    next_update: datetime
    der: bytes
    entries: int
    status_seq: int


_SCOPE = text(
    "INSERT INTO crl_scope (issuer_id, generation_id, scope, last_number) VALUES (:issuer, :generation, :scope, 0)"
    " ON CONFLICT (issuer_id, generation_id, scope) DO NOTHING"
)
_NEXT = (
    update(crl_scope)
    .where(crl_scope.c.id == bindparam("scope_id"))
    .values(last_number=crl_scope.c.last_number + 1)
    .returning(crl_scope.c.last_number)
)
_LATEST = (
    select(crl)
    .where(crl.c.scope_id == bindparam("scope_id"), crl.c.kind == bindparam("crl_kind"))
    .order_by(crl.c.number.desc())
    .limit(1)
)


def scope_for(connection: Connection, issuer_id: int, generation_id: int, scope: str = FULL_SCOPE) -> CrlScope:
    """The scope of that name of a key generation, made if it is new."""
    connection.execute(_SCOPE, {"issuer": issuer_id, "generation": generation_id, "scope": scope})
    row = connection.execute(
        select(crl_scope).where(
            crl_scope.c.issuer_id == issuer_id,
            crl_scope.c.generation_id == generation_id,
            crl_scope.c.scope == scope,
        )
    ).one()
    return _scope(row)


def scopes(connection: Connection) -> tuple[CrlScope, ...]:
    """Every scope."""
    return tuple(_scope(row) for row in connection.execute(select(crl_scope).order_by(crl_scope.c.id)))


def next_number(connection: Connection, scope_id: int) -> int:
    """Take the scope's next CRL number, by one UPDATE: numbers rise over processes, nodes and restarts."""
    return int(connection.execute(_NEXT, {"scope_id": scope_id}).scalar_one())


def raise_number(connection: Connection, scope_id: int, at_least: int) -> None:
    """Let the next number be above ``at_least``: for an authority whose CRLs were issued elsewhere before."""
    connection.execute(
        update(crl_scope)
        .where(crl_scope.c.id == scope_id, crl_scope.c.last_number < at_least)
        .values(last_number=at_least)
    )


def store(connection: Connection, issued: Crl) -> None:
    """Keep an issued CRL, whose number came from :func:`next_number`.

    Raises:
        Rejected: there is a CRL of that kind and number.
        Defect: the number was never taken.
    """
    last = connection.execute(select(crl_scope.c.last_number).where(crl_scope.c.id == issued.scope_id)).scalar()
    if last is None or issued.number > last:
        raise Defect(f"CRL number {issued.number} of scope {issued.scope_id} was never taken")
    with conflicts_as(f"CRL number {issued.number} is there already"):
        connection.execute(
            insert(crl),
            attrs.asdict(issued)
            | {
                "kind": issued.kind.value,
                "this_update": to_micros(issued.this_update),
                "next_update": to_micros(issued.next_update),
            },
        )


def latest(connection: Connection, scope_id: int, kind: CrlKind = CrlKind.COMPLETE) -> Crl | None:
    """The scope's newest CRL of a kind."""
    row = connection.execute(_LATEST, {"scope_id": scope_id, "crl_kind": kind.value}).one_or_none()
    return None if row is None else _crl(row)


def get(connection: Connection, scope_id: int, number: int, kind: CrlKind = CrlKind.COMPLETE) -> Crl | None:
    """The CRL of that number, while it is kept."""
    row = connection.execute(
        select(crl).where(crl.c.scope_id == scope_id, crl.c.kind == kind.value, crl.c.number == number)
    ).one_or_none()
    return None if row is None else _crl(row)


def latest_number(connection: Connection, scope_id: int, kind: CrlKind = CrlKind.COMPLETE) -> int | None:
    """The number of the newest CRL of a kind, without its DER; for polling."""
    query = select(func.max(crl.c.number)).where(crl.c.scope_id == scope_id, crl.c.kind == kind.value)
    return connection.execute(query).scalar()


def forget_before(connection: Connection, scope_id: int, moment: datetime) -> int:
    """Remove CRLs whose nextUpdate passed before a time, but for the newest of each kind; how many."""
    removed = 0
    for kind in CrlKind:
        newest = latest_number(connection, scope_id, kind)
        if newest is not None:
            change = delete(crl).where(
                crl.c.scope_id == scope_id,
                crl.c.kind == kind.value,
                crl.c.number < newest,
                crl.c.next_update < to_micros(moment),
            )
            removed += connection.execute(change).rowcount
    return removed


def _scope(row: Row[Any]) -> CrlScope:
    return CrlScope(row.id, row.issuer_id, row.generation_id, row.scope, row.last_number)


def _crl(row: Row[Any]) -> Crl:
    return Crl(
        scope_id=row.scope_id,
        kind=CrlKind(row.kind),
        number=row.number,
        base_number=row.base_number,
        this_update=from_micros(row.this_update),
        next_update=from_micros(row.next_update),
        der=row.der,
        entries=row.entries,
        status_seq=row.status_seq,
    )
