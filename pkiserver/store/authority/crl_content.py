"""What stands on a CRL: the certificates in its scope that are revoked, and those whose status changed since another.

Entries come as bare numbers, streamed, since there may be a million: serial number, time of revocation, reason and
invalidity date; times in whole seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import attrs
from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from pkiserver.store.authority.crls import Cover, Covers, scopes_of
from pkiserver.store.certificates.values import RevocationReason
from pkiserver.store.schema.authorities import authority, authority_generation
from pkiserver.store.schema.certificates import certificate, status_change
from pkiserver.store.times import from_micros, to_micros

_STREAM_STEP = 5000
_SECOND = 1_000_000
_REMOVE = int(RevocationReason.REMOVE_FROM_CRL)
_c = certificate.c
_s = status_change.c
_ENTRY = (_c.serial, _c.revoked_at, _c.revocation_reason, _c.invalidity_date)

Entry = tuple[int, int, int, int | None]


@attrs.frozen
class Range:
    """A scope in the terms of the records: the key generations whose certificates are in it, and which of these."""

    generations: tuple[int, ...]
    cover: Cover


class ChangedGroup(NamedTuple):
    """Certificates that are alike as to CRLs, of which some changed their status; the first of these changes."""

    generation_id: int
    crl_shard: int | None
    template: str
    ca: bool
    seq: int
    at: datetime

    def within(self, scope: Range) -> bool:
        """Whether they are in a scope."""
        cover = scope.cover
        return (
            self.generation_id in scope.generations
            and (cover.shard is None or cover.shard == self.crl_shard)
            and (cover.template is None or cover.template == self.template)
            and (cover.covers is Covers.ALL or (cover.covers is Covers.AUTHORITIES) == self.ca)
        )


def issuer_generations(connection: Connection, issuer_id: int) -> tuple[int, ...]:
    """Every key generation under an issuer's name, the first first."""
    query = (
        select(authority_generation.c.id)
        .join(authority, authority.c.name == authority_generation.c.authority)
        .where(authority.c.issuer_id == issuer_id)
        .order_by(authority_generation.c.id)
    )
    return tuple(connection.execute(query).scalars())


def revoked(connection: Connection, scope: Range, not_expired_at: datetime) -> Iterator[Entry]:
    """Every revoked or held certificate in a scope that had not expired at a time, in the order of expiry."""
    for generation in scope.generations:
        query = (
            select(*_ENTRY)
            .where(_c.revoked_at.is_not(None), _c.not_after >= to_micros(not_expired_at), *_inside(generation, scope))
            .order_by(_c.not_after, _c.id)
        )
        found = connection.execution_options(yield_per=_STREAM_STEP).execute(query)
        for serial, revoked_at, reason, invalidity in found:
            date = None if invalidity is None else invalidity // _SECOND
            yield int.from_bytes(serial, "big"), revoked_at // _SECOND, reason, date


def dropped(connection: Connection, scope: Range, since: datetime, until: datetime) -> Iterator[Entry]:
    """Those that :func:`revoked` gives for ``since`` and not any more for ``until``, as entries to be removed."""
    for generation in scope.generations:
        query = select(_c.serial, _c.revoked_at).where(
            _c.revoked_at.is_not(None),
            _c.not_after >= to_micros(since),
            _c.not_after < to_micros(until),
            *_inside(generation, scope),
        )
        for serial, revoked_at in connection.execution_options(yield_per=_STREAM_STEP).execute(query):
            yield int.from_bytes(serial, "big"), revoked_at // _SECOND, _REMOVE, None


def changed(
    connection: Connection, issuer_id: int, scope: Range, seq: int, not_expired_at: datetime
) -> Iterator[Entry]:
    """The certificates in a scope whose status changed after number ``seq`` of the status feed, as they are now.

    One that is good again comes as an entry to be removed, dated by its last change (RFC 5280 section 5.2.4). Revoked
    ones that had expired at a time are left out.
    """
    last = (
        select(_s.serial, func.max(_s.at).label("at"))
        .where(_s.seq > seq, _s.issuer_id == issuer_id, _s.generation_id.in_(scope.generations))
        .group_by(_s.serial)
        .subquery()
    )
    query = (
        select(*_ENTRY, last.c.at)
        .join(last, and_(last.c.serial == _c.serial, _c.issuer_id == issuer_id))
        .where(
            _c.generation_id.in_(scope.generations),
            or_(_c.revoked_at.is_(None), _c.not_after >= to_micros(not_expired_at)),
            *_cover(scope.cover),
        )
        .order_by(_c.not_after, _c.id)
    )
    for serial, revoked_at, reason, invalidity, at in connection.execution_options(yield_per=_STREAM_STEP).execute(
        query
    ):
        number = int.from_bytes(serial, "big")
        if revoked_at is None:
            yield number, at // _SECOND, _REMOVE, None
        else:
            yield number, revoked_at // _SECOND, reason, None if invalidity is None else invalidity // _SECOND


def first_change(connection: Connection, issuer_id: int, scope: Range, seq: int) -> tuple[int, datetime] | None:
    """The first change of status in a scope after number ``seq`` of the status feed: its number and time."""
    query = (
        select(_s.seq, _s.at)
        .join(certificate, and_(_c.serial == _s.serial, _c.issuer_id == _s.issuer_id))
        .where(
            _s.seq > seq,
            _s.issuer_id == issuer_id,
            _s.generation_id.in_(scope.generations),
            _c.generation_id.in_(scope.generations),
            *_cover(scope.cover),
        )
        .order_by(_s.seq)
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else (row.seq, from_micros(row.at))


def changed_groups(connection: Connection, after: int, until: int) -> tuple[ChangedGroup, ...]:
    """What changed after one number of the status feed up to another, put together by what CRLs tell apart."""
    kinds = (_c.generation_id, _c.crl_shard, _c.template, _c.ca)
    query = (
        select(*kinds, func.min(_s.seq).label("seq"), func.min(_s.at).label("at"))
        .join(certificate, and_(_c.serial == _s.serial, _c.issuer_id == _s.issuer_id))
        .where(_s.seq > after, _s.seq <= until)
        .group_by(*kinds)
    )
    return tuple(
        ChangedGroup(row.generation_id, row.crl_shard, row.template, bool(row.ca), row.seq, from_micros(row.at))
        for row in connection.execute(query)
    )


def scopes_with(connection: Connection, certificate_id: int) -> tuple[str, ...]:
    """The scopes, of its own key generation's, in whose lists a certificate is or would be."""
    row = connection.execute(
        select(_c.generation_id, _c.crl_shard, _c.template, _c.ca, _c.settled).where(_c.id == certificate_id)
    ).one()
    group = ChangedGroup(row.generation_id, row.crl_shard, row.template, bool(row.ca), 0, from_micros(row.settled))
    found = scopes_of(connection, row.generation_id)
    return tuple(one.scope for one in found if group.within(Range((row.generation_id,), one.cover)))


def _inside(generation: int, scope: Range) -> list[ColumnElement[bool]]:
    return [_c.generation_id == generation, *_cover(scope.cover)]


def _cover(cover: Cover) -> Sequence[ColumnElement[bool]]:
    found: list[Any] = []
    if cover.shard is not None:
        found.append(_c.crl_shard == cover.shard)
    if cover.template is not None:
        found.append(_c.template == cover.template)
    if cover.covers is not Covers.ALL:
        is_ca = cover.covers is Covers.AUTHORITIES
        found.append(_c.ca.is_(True) if is_ca else _c.ca.is_not(True))
    return found
