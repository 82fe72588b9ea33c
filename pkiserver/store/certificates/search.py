"""Search over a hundred million certificates: each page is a range of one index, never an OFFSET.

Pages run from the newest certificate to the oldest, but for an expiry window (soonest first) and a prefix (by
name). A cursor says where the last page ended; certificates that come meanwhile shift nothing.

Where authority or template drives, those of each key generation under each template are a range of one index; a page is
put together from the newest of each.

Where few of a criterion's rows meet the others, :func:`search` looks at a bounded number of them, and the page ends
there: a thread that reads is one of few, and who enrols waits for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from heapq import heapify, heappop, heapreplace
from typing import Any

import attrs
from sqlalchemy import Connection, Row, bindparam, select

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.certificates.queries import (
    Criteria,
    Driver,
    Place,
    build_queries,
    by_number,
    cursor_at,
    driver_of,
    filters_of,
    place_after,
    place_of,
)
from pkiserver.store.certificates.rows import certificate_of
from pkiserver.store.certificates.values import Certificate
from pkiserver.store.ready import Ready
from pkiserver.store.schema.certificates import certificate

PAGE_LIMIT = 1000
MOST_READ = 10_000
"""Rows of the driving criterion that are looked at for one page."""
_LEAST_READ = 16

_c = certificate.c
_NEXT_TEMPLATE = Ready(select(_c.template).where(_c.template > bindparam("after")).order_by(_c.template).limit(1))
_NEXT_GENERATION = Ready(
    select(_c.generation_id)
    .where(_c.template == bindparam("template"), _c.generation_id > bindparam("after"))
    .order_by(_c.generation_id)
    .limit(1)
)
_Rows = list[Row[Any]]


@attrs.frozen
class Page:
    """Certificates, and the cursor of the next page; None after the last.

    ``is_short``: it ended because enough rows had been looked at; its cursor may then tell of a certificate outside the
    scope of the criteria. ``last`` is the cursor of what follows its last certificate.
    """

    certificates: tuple[Certificate, ...]
    cursor: str | None
    is_short: bool = False
    last: str | None = None


def search(
    connection: Connection, criteria: Criteria, *, limit: int = 50, cursor: str | None = None, most: int = MOST_READ
) -> Page:
    """One page of the certificates that meet the criteria; fewer than ``limit`` where few of those looked at do.

    Args:
        connection: Of a read.
        criteria: What to look for.
        limit: Certificates on a page, 1 to :data:`PAGE_LIMIT`.
        cursor: Of the page before, for the same criteria.
        most: Rows to look at, at most.

    Raises:
        Rejected: the limit or the cursor is not one, or the criteria cannot be met together.
    """
    if not 1 <= limit <= PAGE_LIMIT:
        raise Rejected.because(Refusal.LIMIT, f"a page holds 1 to {PAGE_LIMIT} certificates")
    driver = driver_of(criteria)
    parts = _parts(connection, criteria, driver)
    if parts is not None:
        driver = by_number("template")
    if cursor is not None:
        place_of(driver, cursor)  # that it is one
    for some in (min(4 * limit, most), most):  # mostly the first will do
        if parts is None:
            rows, end = _rows(connection, criteria, cursor, limit + 1, some)
        else:
            rows, end = _newest_of(connection, parts, cursor, limit + 1, some)
        if end is None or len(rows) > limit:
            break
    found = tuple(certificate_of(row) for row in rows[:limit])
    last = cursor_at(driver, _place(driver, rows[len(found) - 1])) if found else None
    if len(rows) > limit:
        return Page(found, last, last=last)
    return Page(found, None if end is None else cursor_at(driver, end), is_short=end is not None, last=last)


async def search_on(
    read: Callable[[Callable[[Connection], Page]], Awaitable[Page]],
    criteria: Criteria,
    *,
    limit: int = 50,
    cursor: str | None = None,
) -> Page:
    """As :func:`search`, going on until the page is full or nothing is left; other reads have their turn between.

    Neither the page nor its cursor tells of anything outside the scope of the criteria.
    """
    found: tuple[Certificate, ...] = ()
    last = None
    while True:
        room = limit - len(found)
        page = await read(partial(search, criteria=criteria, limit=room or 1, cursor=cursor))
        if not room and page.certificates:
            return Page(found, last)
        found += page.certificates
        last = page.last or last
        if not page.is_short:
            return Page(found, page.cursor)
        cursor = page.cursor


def _place(driver: Driver, row: Row[Any]) -> Place:
    return None if driver.key is None else row.order_key, row.id


def _rows(
    connection: Connection, criteria: Criteria, cursor: str | None, rows: int, most: int
) -> tuple[_Rows, Place | None]:
    """The rows that meet the criteria among so many of the driver's, and where those end; None: with all of them."""
    end = _end(connection, criteria, cursor, most)
    found: _Rows = []
    for query in build_queries(connection, criteria, rows, cursor, end)[0]:
        found += connection.execute(query.limit(rows - len(found)))
        if len(found) == rows:
            break
    return found, end


def _end(connection: Connection, criteria: Criteria, cursor: str | None, most: int) -> Place | None:
    driver = driver_of(criteria)
    return place_after(connection, driver, cursor, most) if filters_of(connection, criteria, driver) else None


def _parts(connection: Connection, wanted: Criteria, driver: Driver) -> list[Criteria] | None:
    """The searches whose rows together are those wanted, none in two: each of one key generation under one template.

    Each runs along the index, so that somebody who may see few certificates does not wait for all the others to be
    looked at. None where something else drives, or everything is wanted.
    """
    given = (wanted.template, wanted.templates, wanted.generation_ids)
    if driver.name not in {"all", "template"} or all(one is None for one in given):
        return None
    if wanted.template is not None:
        names = [wanted.template] if wanted.templates is None or wanted.template in wanted.templates else []
    else:
        names = _templates(connection) if wanted.templates is None else sorted(wanted.templates)
    return [
        attrs.evolve(wanted, template=name, templates=None, generation_ids=frozenset({generation}))
        for name in names
        for generation in _generations(connection, name)
        if wanted.generation_ids is None or generation in wanted.generation_ids
    ]


def _newest_of(
    connection: Connection, parts: list[Criteria], cursor: str | None, rows: int, most: int
) -> tuple[_Rows, Place | None]:
    """As :func:`_rows`, of all parts together."""
    end = _end_of(connection, parts, cursor, most)
    found: list[int] = []
    for one in parts:
        (query,), _ = build_queries(connection, one, rows, cursor, end)
        found += connection.execute(query.with_only_columns(_c.id)).scalars()
    chosen = select(certificate).where(_c.id.in_(sorted(found)[-rows:])).order_by(_c.id.desc())
    return list(connection.execute(chosen)), end


def _end_of(connection: Connection, parts: list[Criteria], cursor: str | None, most: int) -> Place | None:
    """What is looked at of all parts ends where that of any part does: as many again are for whichever that is.

    Most parts have few certificates. Were the busy ones given no more than those, a page would hardly come further.
    """
    each = max(_LEAST_READ, most // max(1, len(parts)))
    ends = ((number, _end(connection, one, cursor, each)) for number, one in enumerate(parts))
    newest = [(-end[1], each, number) for number, end in ends if end is not None]
    heapify(newest)
    left = most
    while newest and left > 0:
        place, some, number = newest[0]
        some = min(2 * some, left)
        left -= some
        end = _end(connection, parts[number], cursor_at(by_number("template"), (None, -place)), some)
        if end is None:
            heappop(newest)
        else:
            heapreplace(newest, (-end[1], some, number))
    return (None, -newest[0][0]) if newest else None


def _templates(connection: Connection) -> list[str]:
    """The templates of which there is a certificate; one index probe for each."""
    found: list[str] = []
    while rows := _NEXT_TEMPLATE.rows(connection, {"after": found[-1] if found else ""}):
        found.append(rows[0][0])
    return found


def _generations(connection: Connection, template: str) -> list[int]:
    """The key generations that signed certificates of a template; one index probe for each."""
    found: list[int] = []
    while rows := _NEXT_GENERATION.rows(connection, {"template": template, "after": found[-1] if found else -1}):
        found.append(rows[0][0])
    return found
