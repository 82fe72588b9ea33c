"""What a search for certificates is in SQL: criteria, the one that drives, the filters, the place in a cursor.

One criterion drives: the most selective one that is given, in the order of :func:`driver_of`; the others filter its
rows.
"""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    TextClause,
    UnaryExpression,
    func,
    literal,
    null,
    select,
    text,
)
from sqlalchemy.sql.operators import custom_op

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.certificates.values import UNDER_WAY, CertificateState, serial_octets
from pkiserver.store.names import San, bounded, folded, san_key, subject_key
from pkiserver.store.schema.certificates import certificate, certificate_san
from pkiserver.store.times import to_micros

_RARE = frozenset({CertificateState.BURNT, CertificateState.HELD})
_FIRST_CHARACTER_AFTER_ALL = "\U0010ffff"


Place = tuple[Any, int]
"""Where a row is in a driver's order: its key (None where there is none) and its number."""


@attrs.frozen
class Criteria:
    """What to look for; every criterion given must hold.

    ``subject`` is RFC 4514 text and, like ``san``, compared without case; ``subject_prefix`` and ``san_prefix`` match
    the beginning of up to 190 characters. The expiry window is half-open: ``expires_from`` <= notAfter <
    ``expires_before``. ``templates`` and ``generation_ids`` are the scope of whoever looks: nothing else is found,
    counted or told by a cursor. Certificates under way are not found: see :func:`open_intents`.
    """

    issuer_id: int | None = None
    serial: int | None = None
    fingerprint: bytes | None = None
    spki_sha256: bytes | None = None
    subject: str | None = None
    subject_prefix: str | None = None
    san: San | None = None
    san_prefix: San | None = None
    template: str | None = None
    requester: str | None = None
    state: CertificateState | None = None
    expires_from: datetime | None = None
    expires_before: datetime | None = None
    templates: frozenset[str] | None = None
    generation_ids: frozenset[int] | None = None


@attrs.frozen
class Driver:
    """The criterion whose index gives the rows: its conditions and the order in which it gives them.

    ``key`` is the column before the number in that order, None where the number alone orders, newest first. Its values
    are at least ``lowest`` and less than ``beyond``, where those are not None.
    """

    name: str
    conditions: tuple[ColumnElement[bool] | TextClause, ...]
    source: FromClause
    key: ColumnElement[Any] | None
    number: Column[int]
    lowest: Any = None
    beyond: Any = None

    @property
    def order(self) -> tuple[ColumnElement[Any], ...]:
        """The order of its rows."""
        return (self.number.desc(),) if self.key is None else (self.key, self.number)


def build_queries(
    connection: Connection, criteria: Criteria, rows: int, cursor: str | None, end: Place | None = None
) -> tuple[list[Select[tuple[object, ...]]], Driver]:
    """The statements of a search, whose rows follow each other, and its driver.

    Args:
        connection: Of a read.
        criteria: What to look for.
        rows: How many at most.
        cursor: After what.
        end: The last place of the driver's order to look at.

    Raises:
        Rejected: UNSUPPORTED, for a state of certificates under way; MALFORMED, for a cursor of another search.
    """
    driver = driver_of(criteria)
    query = select(certificate, driver.key.label("order_key")) if driver.key is not None else select(certificate)
    query = query.select_from(driver.source).where(*driver.conditions, *filters_of(connection, criteria, driver))
    query = query.order_by(*driver.order).limit(rows)
    return [query.where(*one) for one in _ranges(driver, cursor, end)], driver


def place_after(connection: Connection, driver: Driver, cursor: str | None, rows: int) -> Place | None:
    """Where the last of so many rows is that the driver gives; None where it gives fewer. Only its index is read."""
    key = null() if driver.key is None else driver.key
    for one in _ranges(driver, cursor, None):
        query = select(key, driver.number).select_from(driver.number.table).where(*driver.conditions, *one)
        row = connection.execute(query.order_by(*driver.order).offset(rows - 1).limit(1)).one_or_none()
        if row is not None:
            return (row[0], row[1])
        rows -= connection.execute(select(func.count()).select_from(query.subquery())).scalar_one()
    return None


def _ranges(driver: Driver, cursor: str | None, end: Place | None) -> list[list[ColumnElement[bool]]]:
    """The driver's rows after a cursor and up to a place, as ranges of its index that follow each other.

    Key and number are not compared as one: SQLite then goes through all rows of that key.
    """
    start = None if cursor is None else place_of(driver, cursor)
    key, number = driver.key, driver.number
    if key is None:
        found = [] if start is None else [number < start[1]]
        return [found if end is None else [*found, number >= end[1]]]
    if start is not None and driver.lowest is not None and start[0] < driver.lowest:
        start = None
    if start is not None and driver.beyond is not None and start[0] >= driver.beyond:
        return []
    if start is not None and end is not None and start[0] == end[0]:
        return [[key == start[0], number > start[1], number <= end[1]]]
    between = []
    if start is not None or driver.lowest is not None:
        between.append(key >= driver.lowest if start is None else key > start[0])
    if end is not None or driver.beyond is not None:
        between.append(key < (driver.beyond if end is None else end[0]))
    first = [] if start is None else [[key == start[0], number > start[1]]]
    last = [] if end is None else [[key == end[0], number <= end[1]]]
    return [*first, between, *last]


def driver_of(wanted: Criteria) -> Driver:
    """The first that applies, from the criterion that leaves fewest rows to the one that leaves most."""
    if wanted.state in UNDER_WAY:
        raise Rejected.because(Refusal.UNSUPPORTED, "certificates under way are listed, not searched")
    for choose in (_exact_driver, _prefix_driver, _broad_driver):
        driver = choose(wanted)
        if driver is not None:
            return driver
    return by_number("all")


def _exact_driver(wanted: Criteria) -> Driver | None:
    c = certificate.c
    if wanted.serial is not None:
        return by_number("serial", c.serial == _serial(wanted.serial))
    if wanted.fingerprint is not None:
        return by_number("fingerprint", c.fingerprint == wanted.fingerprint)
    if wanted.san_prefix is not None:
        # as a filter it would look through all names that begin so for each row
        return _by_san_prefix(wanted.san_prefix)
    if wanted.spki_sha256 is not None:
        return by_number("spki_sha256", c.spki_sha256 == wanted.spki_sha256)
    if wanted.san is not None:
        return _by_san(wanted.san)
    if wanted.subject is not None:
        return by_number("subject", c.subject_key == subject_key(wanted.subject))
    return None


def _prefix_driver(wanted: Criteria) -> Driver | None:
    c = certificate.c
    if wanted.state is not None and wanted.state in _RARE:
        return _by_state(wanted.state)
    if wanted.requester is not None:
        return by_number("requester", c.requester == wanted.requester)
    if wanted.subject_prefix is not None:
        return Driver("subject_prefix", (), certificate, c.subject_key, c.id, *_ends(folded(wanted.subject_prefix)))
    return None


def _broad_driver(wanted: Criteria) -> Driver | None:
    c = certificate.c
    if wanted.state is CertificateState.REVOKED:
        return _by_state(wanted.state)
    if wanted.expires_from is not None or wanted.expires_before is not None:
        ends = (None if one is None else to_micros(one) for one in (wanted.expires_from, wanted.expires_before))
        return Driver("expires", (), certificate, c.not_after, c.id, *ends)
    if wanted.template is not None:
        # of one generation: a range of the index, in order
        one = (c.generation_id == min(wanted.generation_ids or ()),) if _of_one_generation(wanted) else ()
        return by_number("template", c.template == wanted.template, *one)
    return None


def _of_one_generation(wanted: Criteria) -> bool:
    return wanted.generation_ids is not None and len(wanted.generation_ids) == 1


def by_number(name: str, *conditions: ColumnElement[bool] | TextClause) -> Driver:
    """A criterion whose rows come by number, newest first."""
    return Driver(name, conditions, certificate, None, certificate.c.id)


def _by_state(state: CertificateState) -> Driver:
    # Written out, not bound: a partial index serves only where the engine can see that its predicate holds.
    written = literal(state.value, literal_execute=True)
    return by_number("state", certificate.c.state == written, text("certificate.state <> 'issued'"))


def _by_san(san: San) -> Driver:
    s = certificate_san.c
    joined = certificate_san.join(certificate, certificate.c.id == s.certificate_id)
    return Driver("san", (s.kind == san.kind.value, s.value == san_key(san)), joined, None, s.certificate_id)


def _by_san_prefix(san: San) -> Driver:
    s = certificate_san.c
    joined = certificate_san.join(certificate, certificate.c.id == s.certificate_id)
    return Driver("san_prefix", (s.kind == san.kind.value,), joined, s.value, s.certificate_id, *_ends(san_key(san)))


def filters_of(connection: Connection, wanted: Criteria, driving: Driver) -> list[ColumnElement[bool]]:
    """The criteria that do not drive."""
    driver, sqlite = driving.name, connection.dialect.name == "sqlite"

    def column(name: str) -> ColumnElement[Any]:
        plain: ColumnElement[Any] = certificate.c[name]
        # SQLite, without statistics, takes every index for as good; a unary plus keeps it from the wrong one.
        return UnaryExpression(plain, operator=custom_op("+"), type_=plain.type) if sqlite else plain

    simple = {
        "issuer_id": wanted.issuer_id,
        "fingerprint": wanted.fingerprint,
        "spki_sha256": wanted.spki_sha256,
        "template": wanted.template,
        "requester": wanted.requester,
        "state": None if wanted.state is None else wanted.state.value,
    }
    filters = [column(name) == value for name, value in simple.items() if value is not None and name != driver]
    if wanted.templates is not None:
        filters.append(column("template").in_(sorted(wanted.templates)))
    if wanted.generation_ids is not None and not (driver == "template" and _of_one_generation(wanted)):
        filters.append(column("generation_id").in_(sorted(wanted.generation_ids)))
    if wanted.subject is not None and driver != "subject":
        filters.append(column("subject_key") == subject_key(wanted.subject))
    if wanted.subject_prefix is not None and driver != "subject_prefix":
        filters += _prefix(column("subject_key"), folded(wanted.subject_prefix))
    if driver != "expires":
        filters += _window(wanted, column("not_after"))
    # Under another name, so that the rows are apart from the driver's own use of the table.
    other = certificate_san.alias("other_san")
    held = select(other.c.certificate_id).where(other.c.certificate_id == certificate.c.id)
    if wanted.san is not None and driver != "san":
        filters.append(held.where(other.c.kind == wanted.san.kind.value, other.c.value == san_key(wanted.san)).exists())
    if wanted.san_prefix is not None and driver != "san_prefix":
        prefix = _prefix(other.c.value, san_key(wanted.san_prefix))
        filters.append(held.where(other.c.kind == wanted.san_prefix.kind.value, *prefix).exists())
    return filters


def _window(wanted: Criteria, column: ColumnElement[Any]) -> tuple[ColumnElement[bool], ...]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.expires_from is not None:
        conditions.append(column >= to_micros(wanted.expires_from))
    if wanted.expires_before is not None:
        conditions.append(column < to_micros(wanted.expires_before))
    return tuple(conditions)


def _prefix(column: ColumnElement[Any], prefix: str) -> tuple[ColumnElement[bool], ...]:
    lowest, beyond = _ends(prefix)
    return (column >= lowest, column < beyond)


def _ends(prefix: str) -> tuple[str, str]:
    beginning = prefix if bounded(prefix) == prefix else prefix[:190]
    return beginning, beginning + _FIRST_CHARACTER_AFTER_ALL


def _serial(serial: int) -> bytes:
    try:
        return serial_octets(serial)
    except ValueError as error:
        raise Rejected.because(Refusal.MALFORMED, str(error)) from None


def cursor_at(driver: Driver, place: Place) -> str:
    """The cursor of what comes after a place."""
    position = [driver.name, *place]
    return base64.urlsafe_b64encode(json.dumps(position, ensure_ascii=False).encode()).decode("ascii").rstrip("=")


def place_of(driver: Driver, cursor: str) -> Place:
    """The position in a cursor, which may have been made by anybody.

    Raises:
        Rejected: it is no cursor of this search.
    """
    try:
        name, key, number = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, TypeError, RecursionError):
        raise _no_cursor() from None
    if name != driver.name or not _is_number(number):
        raise _no_cursor()
    if driver.key is not None:
        fits = _is_number(key) if driver.name == "expires" else isinstance(key, str) and key.isprintable()
        if not fits:
            raise _no_cursor()
    return key, int(number)


def _is_number(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _no_cursor() -> Rejected:
    return Rejected.because(Refusal.MALFORMED, "this is not the cursor of a page of this search")
