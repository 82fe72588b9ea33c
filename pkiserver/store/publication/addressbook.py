"""What the address book asks of the store: certificates by mail address or name, opt-outs, contacts, the feed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection, Row, Select, and_, bindparam, delete, func, insert, select, text, union, update

from pkiserver.foundation import der
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.constraints import conflicts_as
from pkiserver.store.names import San, SanKind, bounded, folded, san_key, sans_from_text
from pkiserver.store.outbox import Feed, current, gather_addresses
from pkiserver.store.ready import Ready
from pkiserver.store.schema.addressbook import (
    addressbook_change,
    addressbook_contact,
    addressbook_contact_key,
    addressbook_key,
    addressbook_opt_out,
)
from pkiserver.store.schema.certificates import certificate, certificate_san, status_change
from pkiserver.store.times import from_micros, to_micros

_AFTER_ALL = "\U0010ffff"

_c, _s, _k, _ck = certificate.c, certificate_san.c, addressbook_key.c, addressbook_contact_key.c
COLUMNS = (
    _c.id,
    _c.der,
    _c.issuer_id,
    _c.serial,
    _c.template,
    _c.sans,
    _c.not_before,
    _c.not_after,
    _c.settled,
    _c.state,
)
CURRENT = (_c.state == "issued", _c.not_after >= bindparam("now"), _c.der.is_not(None))
_BY_ID = select(*COLUMNS).where(_c.id == bindparam("number"))
_BY_SERIAL = select(*COLUMNS).where(_c.issuer_id == bindparam("issuer"), _c.serial == bindparam("serial"))
_OPTED_OUT = select(addressbook_opt_out.c.address).where(
    addressbook_opt_out.c.address.in_(bindparam("wanted", expanding=True))
)
_CONTACT_BY_KEY = (
    select(addressbook_contact)
    .select_from(addressbook_contact_key.join(addressbook_contact, addressbook_contact.c.id == _ck.contact_id))
    .where(_ck.kind == bindparam("kind"), _ck.value >= bindparam("first"), _ck.value < bindparam("after"))
    .order_by(_ck.value, _ck.contact_id)
    .limit(bindparam("most"))
)
_CHANGES = (
    select(addressbook_change.c.seq, addressbook_change.c.address)
    .where(addressbook_change.c.seq > bindparam("seq"))
    .order_by(addressbook_change.c.seq)
    .limit(bindparam("most"))
)
_CHANGED_STATUS = and_(status_change.c.seq > bindparam("after"), status_change.c.seq <= bindparam("last"))
_SAME_CERTIFICATE = and_(_c.serial == status_change.c.serial, _c.issuer_id == status_change.c.issuer_id)
_CHANGED_ADDRESSES = Ready(
    union(
        select(_s.value)
        .select_from(
            status_change.join(certificate, _SAME_CERTIFICATE).join(certificate_san, _s.certificate_id == _c.id)
        )
        .where(_s.kind == SanKind.EMAIL.value, _CHANGED_STATUS),
        select(_k.value)
        .select_from(
            status_change.join(certificate, _SAME_CERTIFICATE).join(addressbook_key, _k.certificate_id == _c.id)
        )
        .where(_k.kind == "mail", _CHANGED_STATUS),
    )
)


@attrs.frozen
class BookCertificate:
    """A certificate as the address book needs it."""

    id: int
    der: bytes = attrs.field(repr=False)
    issuer_id: int
    serial: bytes
    template: str
    addresses: tuple[str, ...]
    """Its mail addresses as it writes them."""
    not_before: datetime
    not_after: datetime
    settled: datetime
    state: str


@attrs.frozen
class Contact:
    """A partner outside. ``details`` are LDAP attribute names and values, ``certificates`` DER, the newest first."""

    address: str
    mails: tuple[str, ...]
    details: tuple[tuple[str, tuple[str, ...]], ...]
    certificates: tuple[bytes, ...] = attrs.field(repr=False)
    author: str
    updated: datetime


def address_key(address: str) -> str:
    """By what an address is found, compared and remembered: without case, bounded."""
    return san_key(San(SanKind.EMAIL, address))


def name_key(name: str) -> str:
    """By what a person's name is found."""
    return bounded(folded(name))


def certificate_by_serial(connection: Connection, issuer_id: int, serial: bytes) -> BookCertificate | None:
    """The issuer's certificate of that serial (octets as stored), in any state."""
    row = connection.execute(_BY_SERIAL, {"issuer": issuer_id, "serial": serial}).one_or_none()
    return None if row is None or row.der is None else certificate_of(row)


def opted_out(connection: Connection, addresses: Collection[str]) -> frozenset[str]:
    """Which of these address keys belong to people who opted out."""
    return frozenset(connection.execute(_OPTED_OUT, {"wanted": list(addresses)}).scalars())


def set_opt_out(connection: Connection, address: str, *, out: bool, author: str, now: datetime) -> bool:
    """Leave a person out, or let them in again; whether that changed anything."""
    if out and not opted_out(connection, [address]):
        values = {"address": address, "author": author, "since": to_micros(now)}
        connection.execute(insert(addressbook_opt_out), values)
    elif not out:
        gone = connection.execute(delete(addressbook_opt_out).where(addressbook_opt_out.c.address == address))
        if not gone.rowcount:
            return False
    else:
        return False
    gather_addresses(connection, [address])
    return True


def opt_outs(connection: Connection, *, after: str, limit: int) -> tuple[tuple[str, str, datetime], ...]:
    """Who opted out: address, by whom it was said, since when."""
    table = addressbook_opt_out
    query = select(table).where(table.c.address > after).order_by(table.c.address).limit(limit)
    return tuple((row.address, row.author, from_micros(row.since)) for row in connection.execute(query))


def put_keys(connection: Connection, certificate_id: int, keys: Iterable[tuple[str, str]]) -> None:
    """Index a certificate's names; what is there stays."""
    rows = [{"kind": kind, "value": value, "number": certificate_id} for kind, value in sorted(set(keys))]
    if rows:
        statement = text(
            "INSERT INTO addressbook_key (kind, value, certificate_id) VALUES (:kind, :value, :number)"
            " ON CONFLICT DO NOTHING"
        )
        connection.execute(statement, rows)


def keys_of(connection: Connection, certificate_id: int) -> frozenset[tuple[str, str]]:
    """The index rows of a certificate."""
    rows = connection.execute(select(_k.kind, _k.value).where(_k.certificate_id == certificate_id))
    return frozenset((row.kind, row.value) for row in rows)


def remove_keys(connection: Connection, certificate_id: int) -> int:
    """Take a certificate's names out of the index; says how many there were."""
    return connection.execute(delete(addressbook_key).where(_k.certificate_id == certificate_id)).rowcount


def by_number(connection: Connection, number: int) -> BookCertificate | None:
    """The signed certificate of that number."""
    row = connection.execute(_BY_ID, {"number": number}).one_or_none()
    return None if row is None or row.der is None else certificate_of(row)


# Contacts


def contacts_by(connection: Connection, kind: str, value: str, *, exact: bool, limit: int) -> tuple[Contact, ...]:
    """Contacts whose address (kind ``mail``) or name is, or begins with, that key."""
    after = value + ("\x01" if exact else _AFTER_ALL)
    rows = connection.execute(_CONTACT_BY_KEY, {"kind": kind, "first": value, "after": after, "most": limit})
    return tuple(_contact(row) for row in rows)


def list_contacts(connection: Connection, *, after: str = "", limit: int = 100) -> tuple[Contact, ...]:
    """Contacts by address."""
    table = addressbook_contact
    query: Select[Any] = select(table).where(table.c.address > after).order_by(table.c.address).limit(limit)
    return tuple(_contact(row) for row in connection.execute(query))


def put_contact(connection: Connection, contact: Contact, keys: Iterable[tuple[str, str]], *, replace: bool) -> None:
    """Keep a contact with the keys under which it is found.

    Raises:
        Rejected: CONFLICT where it is there and not to be replaced, UNKNOWN_REQUEST where it is not there and is.
    """
    table = addressbook_contact
    values = {
        "details": json.dumps({"mail": contact.mails, **dict(contact.details)}, ensure_ascii=False),
        "certificates": b"".join(contact.certificates),
        "author": contact.author,
        "updated": to_micros(contact.updated),
    }
    before = _contact_addresses(connection, contact.address)
    if replace:
        change = update(table).where(table.c.address == contact.address).values(**values).returning(table.c.id)
        number = connection.execute(change).scalar_one_or_none()
        if number is None:
            raise Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no contact {contact.address}")
        connection.execute(delete(addressbook_contact_key).where(_ck.contact_id == number))
    else:
        with conflicts_as(f"there is a contact {contact.address} already"):
            new = insert(table).returning(table.c.id)
            number = connection.execute(new, {"address": contact.address, **values}).scalar_one()
    rows = [{"kind": kind, "value": value, "contact_id": number} for kind, value in sorted(set(keys))]
    connection.execute(insert(addressbook_contact_key), rows)
    gather_addresses(connection, {*before, *(address_key(one) for one in contact.mails)})


def delete_contact(connection: Connection, address: str) -> bool:
    """Remove a contact; whether there was one."""
    before = _contact_addresses(connection, address)
    table = addressbook_contact
    number = connection.execute(
        delete(table).where(table.c.address == address).returning(table.c.id)
    ).scalar_one_or_none()
    if number is None:
        return False
    connection.execute(delete(addressbook_contact_key).where(_ck.contact_id == number))
    gather_addresses(connection, {*before, address})
    return True


def _contact_addresses(connection: Connection, address: str) -> frozenset[str]:
    found = contacts_by(connection, "mail", address, exact=True, limit=8)
    return frozenset(address_key(mail) for one in found if one.address == address for mail in one.mails)


# The feed


@attrs.frozen
class Changes:
    """The addresses that changed since a number; ``addresses`` is None where they cannot be told."""

    latest: int
    addresses: tuple[str, ...] | None


def changes_since(connection: Connection, seq: int, *, most: int = 1000) -> Changes:
    """What changed after number ``seq`` (below 0: not known)."""
    latest = current(connection, Feed.ADDRESSBOOK)
    if seq < 0 or not 0 <= latest - seq <= most:
        return Changes(latest, None)
    if latest == seq:
        return Changes(latest, ())
    rows = connection.execute(_CHANGES, {"seq": seq, "most": most}).all()
    if len(rows) != latest - seq:
        return Changes(latest, None)
    return Changes(latest, tuple(row.address for row in rows))


def addresses_of_status_changes(connection: Connection, after: int, last: int) -> tuple[str, ...]:
    """The address keys of certificates whose status changed by the feed's numbers above ``after`` up to ``last``.

    One statement, however many there are: while a thousand certificates a second are revoked, whatever this takes is
    missed by those who ask for their status.
    """
    return tuple(value for (value,) in _CHANGED_ADDRESSES.rows(connection, {"after": after, "last": last}))


def prune_changes(connection: Connection, *, keep: int = 10_000, most: int = 10_000) -> int:
    """Forget up to ``most`` changes that every process has long read; a process that has not clears its cache instead.

    Says how many there were.
    """
    seq = addressbook_change.c.seq
    first = connection.execute(select(func.min(seq))).scalar() or 0
    last = min(current(connection, Feed.ADDRESSBOOK) - keep, first + most - 1)
    return connection.execute(delete(addressbook_change).where(seq <= last)).rowcount


def certificate_of(row: Row[*tuple[Any, ...]]) -> BookCertificate:
    """From a row with :data:`COLUMNS`."""
    sans = sans_from_text(row.sans)
    return BookCertificate(
        id=row.id,
        der=row.der,
        issuer_id=row.issuer_id,
        serial=row.serial,
        template=row.template,
        addresses=tuple(one.value for one in sans if one.kind is SanKind.EMAIL),
        not_before=from_micros(row.not_before),
        not_after=from_micros(row.not_after),
        settled=from_micros(row.settled),
        state=row.state,
    )


def _contact(row: Row[*tuple[Any, ...]]) -> Contact:
    details = {name: tuple(values) for name, values in json.loads(row.details).items()}
    mails = details.pop("mail")
    return Contact(
        address=row.address,
        mails=mails,
        details=tuple(details.items()),
        certificates=_split(row.certificates),
        author=row.author,
        updated=from_micros(row.updated),
    )


def _split(data: bytes) -> tuple[bytes, ...]:
    """DER elements that stand one after the other; they were checked when they were stored."""
    found = []
    position = 0
    while position < len(data):
        end = der.element(data, position).end
        found.append(data[position:end])
        position = end
    return tuple(found)
