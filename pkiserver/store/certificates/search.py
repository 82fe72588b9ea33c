"""Search over a hundred million certificates: each page is a range of one index, never an OFFSET.

One criterion drives: the most selective one that is given, in the order of :func:`_driver`; the others filter its
rows. Pages run from the newest certificate to the oldest, but for an expiry window (soonest first) and a prefix (by
name). A cursor says where the last page ended; certificates that come meanwhile shift nothing.

Where authority or template drives, those of each key generation under each template are a range of one index; a page is
put together from the newest of each.
"""

from __future__ import annotations

import base64
import binascii
import json
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    TextClause,
    UnaryExpression,
    bindparam,
    literal,
    select,
    text,
    tuple_,
)
from sqlalchemy.sql.operators import custom_op

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.certificates.rows import certificate_of
from pkiserver.store.certificates.values import UNDER_WAY, Certificate, CertificateState, serial_octets
from pkiserver.store.names import San, bounded, folded, san_key, subject_key
from pkiserver.store.ready import Ready
from pkiserver.store.schema.certificates import certificate, certificate_san
from pkiserver.store.times import to_micros

PAGE_LIMIT = 1000
_RARE = frozenset({CertificateState.BURNT, CertificateState.HELD})
_FIRST_CHARACTER_AFTER_ALL = "\U0010ffff"


_c = certificate.c
_NEXT_TEMPLATE = Ready(select(_c.template).where(_c.template > bindparam("after")).order_by(_c.template).limit(1))
_NEXT_GENERATION = Ready(
    select(_c.generation_id)
    .where(_c.template == bindparam("template"), _c.generation_id > bindparam("after"))
    .order_by(_c.generation_id)
    .limit(1)
)


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
class Page:
    """Certificates, and the cursor of the next page; None after the last."""

    certificates: tuple[Certificate, ...]
    cursor: str | None


@attrs.frozen
class _Driver:
    """The criterion whose index gives the rows: its conditions and the order in which it gives them.

    ``key`` is the column before the number in that order, None where the number alone orders, newest first.
    """

    name: str
    conditions: tuple[ColumnElement[bool] | TextClause, ...]
    source: FromClause
    key: ColumnElement[Any] | None
    number: ColumnElement[int]


def search(connection: Connection, criteria: Criteria, *, limit: int = 50, cursor: str | None = None) -> Page:
    """One page of the certificates that meet the criteria.

    Args:
        connection: Of a read.
        criteria: What to look for.
        limit: Certificates on a page, 1 to :data:`PAGE_LIMIT`.
        cursor: Of the page before, for the same criteria.

    Raises:
        Rejected: the limit or the cursor is not one, or the criteria cannot be met together.
    """
    if not 1 <= limit <= PAGE_LIMIT:
        raise Rejected.because(Refusal.LIMIT, f"a page holds 1 to {PAGE_LIMIT} certificates")
    driver = _driver(criteria)
    parts = _parts(connection, criteria, driver)
    if parts is None:
        query, _ = build_query(connection, criteria, limit + 1, cursor)
    else:
        driver = _by_number("template")
        query = _newest_of(connection, parts, limit + 1, None if cursor is None else _after(driver, cursor))
    rows = connection.execute(query).all()
    following = _cursor(driver, rows[limit - 1]) if len(rows) > limit else None
    return Page(tuple(certificate_of(row) for row in rows[:limit]), following)


def _parts(connection: Connection, wanted: Criteria, driver: _Driver) -> list[Criteria] | None:
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
    connection: Connection, parts: list[Criteria], rows: int, after: ColumnElement[bool] | None
) -> Select[tuple[object, ...]]:
    """The statement for the newest certificates of all parts together."""
    number = certificate.c.id
    found: list[int] = []
    for one in parts:
        query, _ = build_query(connection, one, rows, None)
        if after is not None:
            query = query.where(after)
        found += connection.execute(query.with_only_columns(number)).scalars()
    return select(certificate).where(number.in_(sorted(found)[-rows:])).order_by(number.desc())


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


def build_query(
    connection: Connection, criteria: Criteria, rows: int, cursor: str | None
) -> tuple[Select[tuple[object, ...]], _Driver]:
    """The statement of a search and its driver; apart, so that tests can look at its plan.

    Raises:
        Rejected: UNSUPPORTED, for a state of certificates under way; MALFORMED, for a cursor of another search.
    """
    driver = _driver(criteria)
    query = select(certificate, driver.key.label("order_key")) if driver.key is not None else select(certificate)
    query = query.select_from(driver.source).where(*driver.conditions)
    query = query.where(*_filters(criteria, driver.name, sqlite=connection.dialect.name == "sqlite"))
    if cursor is not None:
        query = query.where(_after(driver, cursor))
    order = (driver.number.desc(),) if driver.key is None else (driver.key, driver.number)
    return query.order_by(*order).limit(rows), driver


def _driver(wanted: Criteria) -> _Driver:
    """The first that applies, from the criterion that leaves fewest rows to the one that leaves most."""
    if wanted.state in UNDER_WAY:
        raise Rejected.because(Refusal.UNSUPPORTED, "certificates under way are listed, not searched")
    for choose in (_exact_driver, _prefix_driver, _broad_driver):
        driver = choose(wanted)
        if driver is not None:
            return driver
    return _by_number("all")


def _exact_driver(wanted: Criteria) -> _Driver | None:
    c = certificate.c
    if wanted.serial is not None:
        return _by_number("serial", c.serial == _serial(wanted.serial))
    if wanted.fingerprint is not None:
        return _by_number("fingerprint", c.fingerprint == wanted.fingerprint)
    if wanted.spki_sha256 is not None:
        return _by_number("spki_sha256", c.spki_sha256 == wanted.spki_sha256)
    if wanted.san is not None:
        return _by_san(wanted.san)
    if wanted.subject is not None:
        return _by_number("subject", c.subject_key == subject_key(wanted.subject))
    return None


def _prefix_driver(wanted: Criteria) -> _Driver | None:
    c = certificate.c
    if wanted.state is not None and wanted.state in _RARE:
        return _by_state(wanted.state)
    if wanted.requester is not None:
        return _by_number("requester", c.requester == wanted.requester)
    if wanted.san_prefix is not None:
        return _by_san_prefix(wanted.san_prefix)
    if wanted.subject_prefix is not None:
        conditions = _prefix(c.subject_key, folded(wanted.subject_prefix))
        return _Driver("subject_prefix", conditions, certificate, c.subject_key, c.id)
    return None


def _broad_driver(wanted: Criteria) -> _Driver | None:
    c = certificate.c
    if wanted.state is CertificateState.REVOKED:
        return _by_state(wanted.state)
    if wanted.expires_from is not None or wanted.expires_before is not None:
        return _Driver("expires", _window(wanted, c.not_after), certificate, c.not_after, c.id)
    if wanted.template is not None:
        # of one generation: a range of the index, in order
        one = (c.generation_id == min(wanted.generation_ids or ()),) if _of_one_generation(wanted) else ()
        return _by_number("template", c.template == wanted.template, *one)
    return None


def _of_one_generation(wanted: Criteria) -> bool:
    return wanted.generation_ids is not None and len(wanted.generation_ids) == 1


def _by_number(name: str, *conditions: ColumnElement[bool] | TextClause) -> _Driver:
    return _Driver(name, conditions, certificate, None, certificate.c.id)


def _by_state(state: CertificateState) -> _Driver:
    # Written out, not bound: a partial index serves only where the engine can see that its predicate holds.
    written = literal(state.value, literal_execute=True)
    return _by_number("state", certificate.c.state == written, text("certificate.state <> 'issued'"))


def _by_san(san: San) -> _Driver:
    s = certificate_san.c
    joined = certificate_san.join(certificate, certificate.c.id == s.certificate_id)
    return _Driver("san", (s.kind == san.kind.value, s.value == san_key(san)), joined, None, s.certificate_id)


def _by_san_prefix(san: San) -> _Driver:
    s = certificate_san.c
    joined = certificate_san.join(certificate, certificate.c.id == s.certificate_id)
    conditions = (s.kind == san.kind.value, *_prefix(s.value, san_key(san)))
    return _Driver("san_prefix", conditions, joined, s.value, s.certificate_id)


def _filters(wanted: Criteria, driver: str, *, sqlite: bool) -> list[ColumnElement[bool]]:
    """The criteria that do not drive."""

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
    s = certificate_san.c
    held = select(s.certificate_id).where(s.certificate_id == certificate.c.id)
    if wanted.san is not None and driver != "san":
        filters.append(held.where(s.kind == wanted.san.kind.value, s.value == san_key(wanted.san)).exists())
    if wanted.san_prefix is not None and driver != "san_prefix":
        # Correlation keeps the rows apart from the driver's own use of the table.
        other = certificate_san.alias("other_san")
        prefix = _prefix(other.c.value, san_key(wanted.san_prefix))
        rows = select(other.c.certificate_id).where(other.c.certificate_id == certificate.c.id)
        filters.append(rows.where(other.c.kind == wanted.san_prefix.kind.value, *prefix).exists())
    return filters


def _window(wanted: Criteria, column: ColumnElement[Any]) -> tuple[ColumnElement[bool], ...]:
    conditions: list[ColumnElement[bool]] = []
    if wanted.expires_from is not None:
        conditions.append(column >= to_micros(wanted.expires_from))
    if wanted.expires_before is not None:
        conditions.append(column < to_micros(wanted.expires_before))
    return tuple(conditions)


def _prefix(column: ColumnElement[Any], prefix: str) -> tuple[ColumnElement[bool], ...]:
    beginning = prefix if bounded(prefix) == prefix else prefix[:190]
    return (column >= beginning, column < beginning + _FIRST_CHARACTER_AFTER_ALL)


def _serial(serial: int) -> bytes:
    try:
        return serial_octets(serial)
    except ValueError as error:
        raise Rejected.because(Refusal.MALFORMED, str(error)) from None


def _cursor(driver: _Driver, row: Any) -> str:
    position = [driver.name, None if driver.key is None else row.order_key, row.id]
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode("ascii").rstrip("=")


def _after(driver: _Driver, cursor: str) -> ColumnElement[bool]:
    """The rows that come after the position in a cursor, which may have been made by anybody."""
    try:
        name, key, number = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, TypeError):
        raise _no_cursor() from None
    if name != driver.name or not _is_number(number):
        raise _no_cursor()
    if driver.key is None:
        return driver.number < int(number)
    fits = _is_number(key) if driver.name == "expires" else isinstance(key, str) and key == folded(key)
    if not fits:
        raise _no_cursor()
    return tuple_(driver.key, driver.number) > tuple_(key, int(number))


def _is_number(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _no_cursor() -> Rejected:
    return Rejected.because(Refusal.MALFORMED, "this is not the cursor of a page of this search")
