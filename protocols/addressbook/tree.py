"""The part of the directory that is not people: root DSE, subschema, suffix, containers."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from functools import lru_cache

import attrs

from pkiserver.store.publication.addressbook import address_key
from protocols.addressbook import schema
from protocols.addressbook.controls import SUPPORTED_CONTROLS
from protocols.addressbook.entries import (
    AUTHORITIES,
    CONTACTS,
    PEOPLE,
    SUBSCHEMA_DN,
    Entry,
    make_entry,
    operational_of,
)
from protocols.addressbook.errors import LdapError, ResultCode
from protocols.addressbook.extended import SUPPORTED_EXTENSIONS
from protocols.addressbook.names import Dn, normal, parse_dn

FEATURES = ("1.3.6.1.4.1.4203.1.5.1", "1.3.6.1.4.1.4203.1.5.3")
"""All operational attributes (RFC 3673); absolute true and false filters (RFC 4526)."""
_SUFFIX_CLASSES = {"dc": "domain", "o": "organization", "ou": "organizationalUnit", "c": "country", "l": "locality"}


class Area(enum.Enum):
    """Which part of the tree a name is in."""

    ROOT = "root"
    SUBSCHEMA = "subschema"
    SUFFIX = "suffix"
    PEOPLE = "people"
    CONTACTS = "contacts"
    AUTHORITIES = "authorities"
    PERSON = "person"
    CONTACT = "contact"
    AUTHORITY = "authority"


CHILDREN = {Area.PEOPLE: Area.PERSON, Area.CONTACTS: Area.CONTACT, Area.AUTHORITIES: Area.AUTHORITY}
_CONTAINERS = {"people": Area.PEOPLE, "contacts": Area.CONTACTS, "cas": Area.AUTHORITIES}
_RDN = {Area.PEOPLE: {"uid", "mail"}, Area.CONTACTS: {"uid", "mail"}, Area.AUTHORITIES: {"cn"}}


@attrs.frozen
class Place:
    """Where a name points: of people ``key`` is the address key, of authorities the folded name."""

    area: Area
    key: str = ""


@attrs.frozen
class Suffix:
    """The suffix and the names under it."""

    text: str
    dn: Dn

    @classmethod
    def parse(cls, text: str) -> Suffix:
        """From RFC 4514 text.

        Raises:
            ValueError: it is no name, or begins with an attribute that no entry here has.
        """
        try:
            dn = normal(parse_dn(text.encode()))
        except LdapError:
            raise ValueError(f"{text!r} is not a distinguished name") from None
        if not dn or len(dn[0]) != 1 or dn[0][0][0] not in _SUFFIX_CLASSES:
            raise ValueError(f"{text!r} does not begin with one of {', '.join(_SUFFIX_CLASSES)}")
        return cls(text, dn)

    def place(self, name: bytes) -> Place:
        """Where a name points.

        Raises:
            LdapError: it is no name, or nothing can be there.
        """
        return _place(self.dn, name)

    @property
    def first(self) -> tuple[str, str]:
        """Type and value of the suffix's own relative name, as written."""
        return parse_dn(self.text.encode())[0][0]


@lru_cache(maxsize=1024)
def _place(suffix: Dn, name: bytes) -> Place:
    dn = normal(parse_dn(name))
    if not dn:
        return Place(Area.ROOT)
    if dn == ((("cn", "subschema"),),):
        return Place(Area.SUBSCHEMA)
    above = len(dn) - len(suffix)
    if above < 0 or dn[above:] != suffix or above > 2:
        raise no_such_object()
    if not above:
        return Place(Area.SUFFIX)
    kind, value = dn[above - 1][0]
    container = _CONTAINERS.get(value) if kind == "ou" and len(dn[above - 1]) == 1 else None
    if container is None:
        raise no_such_object()
    if above == 1:
        return Place(container)
    kind, value = parse_dn(name)[0][0]
    if kind not in _RDN[container] or len(dn[0]) != 1:
        raise no_such_object()
    return Place(CHILDREN[container], dn[0][0][1] if container is Area.AUTHORITIES else address_key(value))


def no_such_object() -> LdapError:
    """What is said about whatever is not there, whoever asks and why ever it is not."""
    return LdapError(ResultCode.NO_SUCH_OBJECT)


def root_dse(suffix: Suffix, mechanisms: Iterable[str], version: str) -> Entry:
    """The root DSE (RFC 4512 section 5.1); ``mechanisms`` are those of this connection."""
    operational = {
        "namingContexts": (suffix.text.encode(),),
        "subschemaSubentry": (SUBSCHEMA_DN.encode(),),
        "supportedControl": tuple(one.encode() for one in SUPPORTED_CONTROLS),
        "supportedExtension": tuple(one.encode() for one in SUPPORTED_EXTENSIONS),
        "supportedFeatures": tuple(one.encode() for one in FEATURES),
        "supportedLDAPVersion": (b"3",),
        "supportedSASLMechanisms": tuple(one.encode() for one in mechanisms),
        "vendorName": (b"pkiserver",),
        "vendorVersion": (version.encode(),),
        "entryDN": (b"",),
    }
    return make_entry("", {"objectClass": (b"top",)}, operational)


def subschema_entry() -> Entry:
    """The subschema subentry (RFC 4512 section 4.2)."""
    operational = {name: tuple(one.encode() for one in values) for name, values in schema.subschema().items()}
    classes = (b"top", b"subentry", b"subschema")
    user = {"objectClass": classes, "cn": (b"subschema",)}
    return make_entry(SUBSCHEMA_DN, user, {**operational_of(SUBSCHEMA_DN, "subentry"), **operational})


def container_entries(suffix: Suffix) -> dict[Area, Entry]:
    """The suffix's own entry and the containers below it."""
    kind, value = suffix.first
    structural = _SUFFIX_CLASSES[kind]
    user = {"objectClass": (b"top", structural.encode()), kind: (value.encode(),)}
    found = {Area.SUFFIX: make_entry(suffix.text, user, operational_of(suffix.text, structural))}
    for area, name in ((Area.PEOPLE, PEOPLE), (Area.CONTACTS, CONTACTS), (Area.AUTHORITIES, AUTHORITIES)):
        dn = f"ou={name},{suffix.text}"
        unit = {"objectClass": (b"top", b"organizationalUnit"), "ou": (name.encode(),)}
        found[area] = make_entry(dn, unit, operational_of(dn, "organizationalUnit"))
    return found
