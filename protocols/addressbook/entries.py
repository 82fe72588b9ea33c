"""Entries as they are kept, encoded once: what a search gives out is cut from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache

import attrs

from pkiserver.publication.values import Person
from protocols.addressbook.ber import header
from protocols.addressbook.filters import description
from protocols.addressbook.messages import partial_attribute
from protocols.addressbook.names import escape
from protocols.addressbook.schema import descriptions_of, find_attribute

SUBSCHEMA_DN = "cn=subschema"
PEOPLE, CONTACTS, AUTHORITIES = "People", "Contacts", "CAs"
_PERSON_CLASSES = (b"top", b"person", b"organizationalPerson", b"inetOrgPerson")
_OVERHEAD = 200
USER_CERTIFICATE = b"userCertificate;binary"


@attrs.frozen(slots=True, eq=False)
class Entry:
    """An entry: its name, its user attributes and its operational ones, each encoded PartialAttributes in a row."""

    dn: bytes
    user: bytes = attrs.field(repr=False)
    operational: bytes = attrs.field(repr=False)

    @property
    def size(self) -> int:
        """About how many octets of memory it takes."""
        return len(self.dn) + len(self.user) + len(self.operational) + _OVERHEAD

    def values(self, name: bytes) -> tuple[bytes, ...]:
        """The values of an attribute, named as it stands in the entry."""
        for part in (self.user, self.operational):
            for found, start, stop, _, _ in walk(part):
                if found == name:
                    return tuple(_values(part, start, stop))
        return ()

    def attributes(self) -> dict[bytes, tuple[bytes, ...]]:
        """All of them."""
        return {
            name: tuple(_values(part, start, stop))
            for part in (self.user, self.operational)
            for name, start, stop, _, _ in walk(part)
        }


def walk(data: bytes) -> Iterator[tuple[bytes, int, int, int, int]]:
    """Each attribute's name, begin and end of its values, begin and end of itself."""
    position, end = 0, len(data)
    while position < end:
        _, start, stop = header(data, position, end)
        _, begin, after = header(data, start, stop)
        _, first, last = header(data, after, stop)
        yield data[begin:after], first, last, position, stop
        position = stop


def _values(data: bytes, position: int, end: int) -> Iterator[bytes]:
    while position < end:
        _, start, position = header(data, position, end)
        yield data[start:position]


def make_entry(dn: str, user: Mapping[str, tuple[bytes, ...]], operational: Mapping[str, tuple[bytes, ...]]) -> Entry:
    """An entry from attribute names, as the schema writes them, and values; empty attributes are left out."""

    def encode(part: Mapping[str, tuple[bytes, ...]]) -> bytes:
        made = []
        for name, values in part.items():
            kind = find_attribute(name.lower())
            assert kind is not None, name
            if values:
                made.append(partial_attribute(kind.description, values))
        return b"".join(made)

    return Entry(dn.encode(), encode(user), encode(operational))


def operational_of(dn: str, structural: str, modified: datetime | None = None) -> dict[str, tuple[bytes, ...]]:
    """The operational attributes that every entry has."""
    found: dict[str, tuple[bytes, ...]] = {
        "structuralObjectClass": (structural.encode(),),
        "entryDN": (dn.encode(),),
        "subschemaSubentry": (SUBSCHEMA_DN.encode(),),
    }
    if modified is not None:
        found["modifyTimestamp"] = (f"{modified:%Y%m%d%H%M%SZ}".encode(),)
    return found


def person_entry(person: Person, base: str) -> Entry:
    """The inetOrgPerson of a person (RFC 2798)."""
    dn = f"uid={escape(person.address)},ou={CONTACTS if person.is_contact else PEOPLE},{base}"
    user: dict[str, tuple[bytes, ...]] = {
        "objectClass": _PERSON_CLASSES,
        "uid": (person.address.encode(),),
        "mail": tuple(one.encode() for one in person.mails),
    }
    for name, values in person.names:
        user[name] = tuple(value.encode() for value in values)
    user["userCertificate"] = person.certificates
    user["userSMIMECertificate"] = person.smime
    operational = {"modifyTimestamp": (f"{person.modified:%Y%m%d%H%M%SZ}".encode(),)}
    return make_entry(dn, user, operational)


@attrs.frozen
class Selection:
    """Which attributes a client wants."""

    user: bool
    operational: bool
    names: frozenset[bytes]


@lru_cache(maxsize=1024)
def selection_of(attributes: tuple[bytes, ...]) -> Selection:
    """The selection that an attribute list asks for (RFC 4511 section 4.5.1.8, RFC 3673); memory is bounded."""
    if not attributes:
        return Selection(user=True, operational=False, names=frozenset())
    names = frozenset(name for one in attributes for name in descriptions_of(description(one)))
    return Selection(user=b"*" in attributes, operational=b"+" in attributes, names=names)


def selected(entry: Entry, selection: Selection, *, types_only: bool) -> bytes:
    """The encoded attributes of an entry that a client gets."""
    if selection.user and not types_only and not selection.operational and not selection.names:
        return entry.user
    parts = []
    for everything, data in ((selection.user, entry.user), (selection.operational, _operational(entry, selection))):
        for name, _, _, begin, end in walk(data):
            if everything or name in selection.names:
                parts.append(partial_attribute(name, ()) if types_only else data[begin:end])
    return b"".join(parts)


def _operational(entry: Entry, selection: Selection) -> bytes:
    """Operational attributes; those of people follow from their names and are not kept."""
    if not selection.operational and not selection.names:
        return b""
    if b"entryDN" in entry.operational:
        return entry.operational
    derived = operational_of(entry.dn.decode(), "inetOrgPerson")
    return entry.operational + b"".join(partial_attribute(name.encode(), values) for name, values in derived.items())
