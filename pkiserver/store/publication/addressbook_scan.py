"""Going through everything that the address book may show, a page at a time."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, bindparam, select

from pkiserver.store.names import SanKind
from pkiserver.store.publication.addressbook import COLUMNS, CURRENT, BookCertificate, certificate_of
from pkiserver.store.schema.addressbook import addressbook_key
from pkiserver.store.schema.certificates import certificate, certificate_san
from pkiserver.store.times import to_micros

_c, _s, _k = certificate.c, certificate_san.c, addressbook_key.c
_ADDRESSES_AFTER = (
    select(_s.value)
    .distinct()
    .select_from(certificate_san.join(certificate, _c.id == _s.certificate_id))
    .where(_s.kind == SanKind.EMAIL.value, _s.value > bindparam("after"), *CURRENT)
    .order_by(_s.value)
    .limit(bindparam("most"))
)
_UTF8_ADDRESSES_AFTER = (
    select(_k.value)
    .distinct()
    .select_from(addressbook_key.join(certificate, _c.id == _k.certificate_id))
    .where(_k.kind == "mail", _k.value > bindparam("after"), *CURRENT)
    .order_by(_k.value)
    .limit(bindparam("most"))
)


def addresses_after(connection: Connection, after: str, *, now: datetime, limit: int) -> tuple[str, ...]:
    """Address keys of certificates in force, in order: for going through all of them."""
    values = {"after": after, "now": to_micros(now), "most": limit}
    found = {*connection.execute(_ADDRESSES_AFTER, values).scalars()}
    found |= {*connection.execute(_UTF8_ADDRESSES_AFTER, values).scalars()}
    return tuple(sorted(found)[:limit])


def certificates_after(connection: Connection, number: int, *, limit: int) -> tuple[BookCertificate, ...]:
    """Signed certificates by number, in any state: for going through all of them."""
    query = select(*COLUMNS).where(_c.id > number, _c.der.is_not(None)).order_by(_c.id).limit(limit)
    return tuple(certificate_of(row) for row in connection.execute(query))
