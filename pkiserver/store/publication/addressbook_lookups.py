"""Certificates and addresses that the address book may show, by address, name or hash.

What limits a look-up counts only what may be shown: certificates that have ended, or are of templates that do not
publish, hide no other, however many there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, and_, bindparam, not_, select

from pkiserver.store.names import SanKind, san_key, sans_from_text
from pkiserver.store.publication.addressbook import COLUMNS, CURRENT, BookCertificate, certificate_of
from pkiserver.store.schema.addressbook import addressbook_key
from pkiserver.store.schema.certificates import certificate, certificate_san
from pkiserver.store.times import to_micros

AT_ONCE = 64
"""Certificates of one address that one statement reads, newest first."""
_AFTER_ALL = "\U0010ffff"

_c, _s, _k = certificate.c, certificate_san.c, addressbook_key.c
# joined to nothing, so that no engine runs along the index of templates instead of names
_OF_TEMPLATES = (_c.template + "").in_(bindparam("templates", expanding=True))
_BY_ADDRESS = (
    select(*COLUMNS)
    .select_from(certificate_san.join(certificate, _c.id == _s.certificate_id))
    .where(_s.kind == SanKind.EMAIL.value, _s.value == bindparam("wanted"), *CURRENT)
    .order_by(_s.certificate_id.desc())
    .limit(AT_ONCE)
)
_OLDER_BY_ADDRESS = _BY_ADDRESS.where(_s.certificate_id < bindparam("below"), _OF_TEMPLATES)
_WITH_KEY = (
    select(*COLUMNS)
    .select_from(addressbook_key.join(certificate, _c.id == _k.certificate_id))
    .where(_k.kind == bindparam("kind"), _k.value == bindparam("wanted"))
    .order_by(_k.certificate_id.desc())
    .limit(bindparam("most"))
)
_BY_KEY = _WITH_KEY.where(*CURRENT)
_OLDER_BY_KEY = _BY_KEY.where(_k.certificate_id < bindparam("below"), _OF_TEMPLATES)
_CURRENT_BY_KEY = _BY_KEY.where(_OF_TEMPLATES)
_PAST_BY_KEY = _WITH_KEY.where(_c.der.is_not(None), not_(and_(*CURRENT)), _OF_TEMPLATES)
_ADDRESSES = (
    select(_s.value)
    .distinct()
    .select_from(certificate_san.join(certificate, _c.id == _s.certificate_id))
    .where(_s.kind == SanKind.EMAIL.value, _s.value >= bindparam("first"), _s.value < bindparam("after"))
    .where(*CURRENT, _OF_TEMPLATES)
    .order_by(_s.value)
    .limit(bindparam("most"))
)
_NAMED = (
    select(_c.sans)
    .select_from(addressbook_key.join(certificate, _c.id == _k.certificate_id))
    .where(_k.kind == bindparam("kind"), _k.value >= bindparam("first"), _k.value < bindparam("after"))
    .where(*CURRENT, _OF_TEMPLATES)
    .order_by(_k.value, _k.certificate_id.desc())
    .limit(bindparam("most"))
)


def certificates_of(
    connection: Connection, address: str, *, templates: Collection[str], now: datetime
) -> Iterator[BookCertificate]:
    """Certificates in force for an address key, the newest first; more are read as they are taken.

    Those of templates that are not among ``templates`` can be among the first :data:`AT_ONCE`, not after them.
    """
    values = {"wanted": address, "now": to_micros(now)}
    yield from _by_and_by(connection, _BY_ADDRESS, _OLDER_BY_ADDRESS, values, templates)
    if not address.isascii():  # an SmtpUTF8Mailbox (RFC 9598) is found by the index of names
        values |= {"kind": "mail", "most": AT_ONCE}
        yield from _by_and_by(connection, _BY_KEY, _OLDER_BY_KEY, values, templates)


def _by_and_by(
    connection: Connection,
    first: Select[Any],
    further: Select[Any],
    values: dict[str, object],
    templates: Collection[str],
) -> Iterator[BookCertificate]:
    rows = connection.execute(first, values).all()
    yield from map(certificate_of, rows)
    while len(rows) == AT_ONCE:
        more = {**values, "below": rows[-1].id, "templates": list(templates)}
        rows = connection.execute(further, more).all()
        yield from map(certificate_of, rows)


def certificates_by_key(
    connection: Connection,
    kind: str,
    value: str,
    *,
    templates: Collection[str],
    past: Collection[str],
    now: datetime,
    limit: int,
) -> tuple[BookCertificate, ...]:
    """Published certificates with that key, the newest first: those in force and, where there is room, past ones.

    Args:
        connection: Of a read.
        kind: What the key is.
        value: The key.
        templates: Those whose certificates are shown.
        past: Those of them whose past certificates are shown too.
        now: The time.
        limit: Certificates at most.
    """
    values = {"kind": kind, "wanted": value, "now": to_micros(now)}
    rows = connection.execute(_CURRENT_BY_KEY, {**values, "most": limit, "templates": list(templates)}).all()
    if past and len(rows) < limit:
        more = {**values, "most": limit - len(rows), "templates": list(past)}
        rows = sorted([*rows, *connection.execute(_PAST_BY_KEY, more)], key=lambda row: -row.id)
    return tuple(map(certificate_of, rows))


def addresses_beginning(
    connection: Connection, prefix: str, *, templates: Collection[str], now: datetime, limit: int
) -> tuple[str, ...]:
    """Address keys of certificates in force that begin so."""
    values = {"first": prefix, "after": prefix + _AFTER_ALL, "now": to_micros(now), "most": limit}
    return tuple(connection.execute(_ADDRESSES, {**values, "templates": list(templates)}).scalars())


def addresses_named(
    connection: Connection,
    kind: str,
    prefix: str,
    *,
    exact: bool,
    templates: Collection[str],
    now: datetime,
    limit: int,
) -> tuple[str, ...]:
    """The first address of certificates in force whose name of that kind is, or begins with, so."""
    after = prefix + "\0" if exact else prefix + _AFTER_ALL
    values = {"kind": kind, "first": prefix, "after": after, "now": to_micros(now), "most": limit}
    if exact and connection.dialect.name == "postgresql":
        values["after"] = prefix + "\x01"  # text there holds no zero octet
    found = []
    for sans in connection.execute(_NAMED, {**values, "templates": list(templates)}).scalars():
        first = next((one for one in sans_from_text(sans) if one.kind is SanKind.EMAIL), None)
        if first is not None:
            found.append(san_key(first))
    return tuple(found)
