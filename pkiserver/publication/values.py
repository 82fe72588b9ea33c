"""People as the address book shows them, whatever the protocol."""

from __future__ import annotations

import enum
from datetime import datetime

import attrs


@attrs.frozen
class Person:
    """One entry: a person here, or a contact outside.

    ``address`` is the key under which the entry stands; ``names`` are LDAP attribute names (RFC 4519, RFC 2798) with
    their values, ``cn`` and ``sn`` always among them. ``certificates`` and ``smime`` (SignedData, RFC 2798 section 2.8)
    are DER. The entry is right until ``until``, unless the feeds tell of a change before.
    """

    address: str
    mails: tuple[str, ...]
    names: tuple[tuple[str, tuple[str, ...]], ...]
    certificates: tuple[bytes, ...] = attrs.field(repr=False)
    smime: tuple[bytes, ...] = attrs.field(repr=False)
    modified: datetime
    until: datetime
    is_contact: bool = False


class NameKind(enum.StrEnum):
    """The kinds of names that the index holds; their values are what the store calls them."""

    MAIL = "mail"
    CN = "cn"
    SN = "sn"
    GIVEN = "givenname"
    HASH = "certhash"
    ISSUER_SERIAL = "iandshash"
    SUBJECT = "shash"
    SUBJECT_KEY = "skidhash"


@attrs.frozen
class NamePrefix:
    """People whose name of that kind begins with ``value`` (a key of the store), or is it."""

    kind: NameKind
    value: str
    exact: bool


@attrs.frozen
class BookCounts:
    """Figures for metrics, since the start, but for ``cached`` and ``cached_bytes``."""

    hits: int
    misses: int
    dropped: int
    cached: int
    cached_bytes: int
