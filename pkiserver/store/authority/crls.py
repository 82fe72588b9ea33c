"""CRL scopes with their rising numbers, and the CRLs issued in them (RFC 5280 section 5.2.3)."""

from __future__ import annotations

import enum
import json
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, text, update

from pkiserver.foundation.errors import Defect
from pkiserver.store.constraints import conflicts_as
from pkiserver.store.schema.crls import crl, crl_scope
from pkiserver.store.times import from_micros, to_micros

FULL_SCOPE = "full"
"""The scope of a generation's complete CRL."""


class CrlKind(enum.StrEnum):
    """Complete and delta CRLs share one sequence of numbers."""

    COMPLETE = "complete"
    DELTA = "delta"


class Covers(enum.StrEnum):
    """Whose certificates a CRL is about (RFC 5280 section 5.2.5)."""

    ALL = "all"
    USERS = "users"
    AUTHORITIES = "authorities"


@attrs.frozen
class Cover:
    """Which certificates are in the scope of a CRL.

    Attributes:
        covers: Whose.
        shard: Only those that name this shard.
        template: Only those of this template.
        bounded: Only those of the key generation itself, for which the CRL names its distribution point; otherwise all
            of the issuer's name.
        urls: The names of that distribution point: first those that certificates have now, then any that they had.
    """

    covers: Covers = Covers.ALL
    shard: int | None = None
    template: str | None = None
    bounded: bool = False
    urls: tuple[str, ...] = ()


@attrs.frozen
class CrlScope:
    """What a sequence of CRLs covers; ``last_number`` is 0 before the first."""

    id: int
    issuer_id: int
    generation_id: int
    scope: str
    last_number: int
    cover: Cover = Cover()
    since: int = 0
    """The scope has been as it is since the CRL of this number, which was still otherwise."""
    announced: bool = False
    """Whether certificates may name it: then it lives as long as its key generation."""


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


def define_scope(
    connection: Connection, issuer_id: int, generation_id: int, scope: str, cover: Cover, *, announced: bool
) -> CrlScope:
    """The scope of that name, which from now on covers this; made if it is new.

    Names that its distribution point once had stay behind the present ones: certificates carry them. What was announced
    stays so, and whom it covered it goes on covering.
    """
    found = scope_for(connection, issuer_id, generation_id, scope)
    if found.announced and found.cover.covers is not cover.covers:
        cover = attrs.evolve(cover, covers=Covers.ALL)
    urls = (*cover.urls, *(url for url in found.cover.urls if url not in cover.urls)) if cover.bounded else ()
    wanted = attrs.evolve(found, cover=attrs.evolve(cover, urls=urls), announced=announced or found.announced)
    if wanted.cover != found.cover:
        wanted = attrs.evolve(wanted, since=found.last_number)
    if wanted != found:
        values = {
            "covers": wanted.cover.covers.value,
            "shard": wanted.cover.shard,
            "template": wanted.cover.template,
            "bounded": wanted.cover.bounded,
            "urls": json.dumps(wanted.cover.urls),
            "since": wanted.since,
            "announced": wanted.announced,
        }
        connection.execute(update(crl_scope).where(crl_scope.c.id == found.id).values(values))
    return wanted


def find(connection: Connection, generation_id: int, scope: str) -> CrlScope | None:
    """The scope of that name of a key generation, if there is one."""
    query = select(crl_scope).where(crl_scope.c.generation_id == generation_id, crl_scope.c.scope == scope)
    row = connection.execute(query).one_or_none()
    return None if row is None else _scope(row)


def scopes_of(connection: Connection, generation_id: int) -> tuple[CrlScope, ...]:
    """Every scope of a key generation."""
    query = select(crl_scope).where(crl_scope.c.generation_id == generation_id).order_by(crl_scope.c.id)
    return tuple(_scope(row) for row in connection.execute(query))


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


def forget_before(connection: Connection, scope_id: int, moment: datetime, *, most: int = 100) -> int:
    """Remove CRLs whose nextUpdate passed before a time, but for the newest of each kind; how many.

    At most ``most`` of each kind, those that ended first.
    """
    removed = 0
    for kind in CrlKind:
        newest = latest_number(connection, scope_id, kind)
        if newest is not None:
            mine = (crl.c.scope_id == scope_id, crl.c.kind == kind.value)
            ended = (*mine, crl.c.next_update < to_micros(moment), text("+crl.number < :newest"))
            query = select(crl.c.number).where(*ended).order_by(crl.c.next_update).limit(most)
            numbers = connection.execute(query, {"newest": newest}).scalars().all()
            removed += connection.execute(delete(crl).where(*mine, crl.c.number.in_(numbers))).rowcount
    return removed


def _scope(row: Row[Any]) -> CrlScope:
    cover = Cover(
        covers=Covers(row.covers or Covers.ALL),
        shard=row.shard,
        template=row.template,
        bounded=bool(row.bounded),
        urls=tuple(json.loads(row.urls or "[]")),
    )
    return CrlScope(
        id=row.id,
        issuer_id=row.issuer_id,
        generation_id=row.generation_id,
        scope=row.scope,
        last_number=row.last_number,
        cover=cover,
        since=row.since or 0,
        announced=bool(row.announced),
    )


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
