"""Wrong guesses in the database, so that a limit holds over all workers and nodes, and over restarts.

A row says until when something counts: the wrong guesses of an address or about a template are forgiven at ``ends``
(each moved it on by the time that one guess takes to be forgiven), an address that was right is known until then.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection, bindparam, delete, or_, select, text

from pkiserver.store.ready import Ready
from pkiserver.store.schema.guesses import wrong_guess
from pkiserver.store.times import from_micros, to_micros

_MICROSECOND = timedelta(microseconds=1)
_g = wrong_guess.c


class Kind(enum.IntEnum):
    """What a row is about."""

    ADDRESS = 1
    """Wrong guesses of one address."""
    TEMPLATE = 2
    """Wrong guesses about one template, of all addresses."""
    KNOWN = 3
    """An address that was right."""


@attrs.frozen
class Mark:
    """Until when something counts, and when it was last added to."""

    ends: datetime
    at: datetime


@attrs.frozen
class Charge:
    """What a guess adds: ``step`` for each, and never more than ``most`` from now."""

    kind: Kind
    name: str
    step: timedelta
    most: timedelta


_LOOK = Ready(
    select(_g.kind, _g.ends, _g.at).where(
        or_(
            (_g.kind == int(Kind.ADDRESS)) & (_g.name == bindparam("address")),
            (_g.kind == int(Kind.TEMPLATE)) & (_g.name == bindparam("template")),
            (_g.kind == int(Kind.KNOWN)) & (_g.name == bindparam("address")),
        )
    )
)
_CHARGE = text(
    "INSERT INTO wrong_guess (kind, name, ends, at) VALUES (:kind, :name, :fresh, :now)"
    " ON CONFLICT (kind, name) DO UPDATE SET at = excluded.at, ends = CASE"
    " WHEN wrong_guess.ends <= excluded.at THEN excluded.ends"
    " WHEN wrong_guess.ends > :full THEN :limit"
    " ELSE wrong_guess.ends + :step END"
)
_KNOW = text(
    "INSERT INTO wrong_guess (kind, name, ends, at) VALUES (:kind, :name, :ends, :at)"
    " ON CONFLICT (kind, name) DO UPDATE SET ends = excluded.ends, at = excluded.at"
)


def look(connection: Connection, *, address: str, template: str) -> dict[Kind, Mark]:
    """What is known of an address and a template, by one statement over the primary key."""
    found = _LOOK.named(connection, {"address": address, "template": template})
    return {Kind(row.kind): Mark(from_micros(row.ends), from_micros(row.at)) for row in found}


def charge(connection: Connection, counts: Mapping[Charge, int], *, now: datetime) -> None:
    """Add so many guesses to each; in order, so that two processes seldom wait for each other."""
    at = to_micros(now)
    for one in sorted(counts, key=lambda one: (one.kind, one.name)):
        step, limit = counts[one] * (one.step // _MICROSECOND), at + one.most // _MICROSECOND
        values = {
            "kind": int(one.kind),
            "name": one.name,
            "now": at,
            "fresh": min(at + step, limit),
            "full": limit - step,
            "limit": limit,
            "step": step,
        }
        connection.execute(_CHARGE, values)


def know(connection: Connection, addresses: Iterable[str], *, at: datetime, until: datetime) -> None:
    """Addresses that were right."""
    times = {"kind": int(Kind.KNOWN), "ends": to_micros(until), "at": to_micros(at)}
    rows = [{"name": address, **times} for address in sorted(addresses)]
    if rows:
        connection.execute(_KNOW, rows)


def forget(connection: Connection, *, now: datetime, keep: int, most: int = 10_000) -> int:
    """Remove what counts no more, and of each kind what ends soonest beyond ``keep`` rows; how many.

    At most ``most`` rows of each kind, and as many beyond ``keep``.
    """
    gone = 0
    for kind in Kind:
        mine = _g.kind == int(kind)
        over = select(_g.name).where(mine, _g.ends < to_micros(now)).order_by(_g.ends).limit(most)
        beyond = select(_g.name).where(mine).order_by(_g.ends.desc(), _g.name).offset(keep).limit(most)
        # the end is looked at again: another process may have added to the row meanwhile
        gone += connection.execute(
            delete(wrong_guess).where(mine, _g.name.in_(over), _g.ends < to_micros(now))
        ).rowcount
        gone += connection.execute(delete(wrong_guess).where(mine, _g.name.in_(beyond))).rowcount
    return gone
