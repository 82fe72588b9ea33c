"""What the address book needs from the rest of the server."""

from __future__ import annotations

import enum
from collections.abc import Awaitable
from datetime import datetime
from typing import Protocol

import attrs

from pkiserver.foundation.secret import Secret
from pkiserver.publication.values import NameKind, NamePrefix
from protocols.addressbook.entries import Entry


class Book(Protocol):
    """People and contacts (:class:`pkiserver.publication.book.AddressBook`)."""

    def cached(self, address: str) -> tuple[Entry, ...] | None:
        """The entries of an address key, if they are at hand."""

    async def find(self, address: str) -> tuple[Entry, ...]:
        """The entries of an address key."""

    async def named(self, wanted: NamePrefix, limit: int) -> tuple[str, ...]:
        """The address keys of entries under a name."""

    async def by_serial(self, issuer_id: int, serial: int) -> tuple[Entry, ...]:
        """The entry with exactly that certificate."""

    async def by_hash(self, kind: NameKind, value: str, limit: int) -> tuple[bytes, ...]:
        """Certificates under a hash of RFC 4387."""


@attrs.frozen
class CaListing:
    """An authority as it is shown: certificates with the current one first."""

    name: str
    subject: str
    """RFC 4514 text."""
    subject_der: bytes = attrs.field(repr=False)
    issuer_id: int
    certificates: tuple[bytes, ...] = attrs.field(repr=False)


LONGEST_LIST = 1024 * 1024
"""Octets of a list that an entry may have, and that is kept."""


class ListKind(enum.Enum):
    """The kinds of lists, by the attributes that hold them."""

    COMPLETE = "certificateRevocationList"
    """All certificates, or those of end entities."""
    AUTHORITIES = "authorityRevocationList"
    DELTA = "deltaRevocationList"


@attrs.frozen
class CaList:
    """A list: ``path`` is its distribution point's, ``key`` the identifier of the key that signs it."""

    kind: ListKind
    path: str
    key: bytes = attrs.field(repr=False)
    this_update: datetime
    der: bytes | None = attrs.field(repr=False)
    """None of one that is longer than LONGEST_LIST: those are read when they are asked for."""


class CaSource(Protocol):
    """The authorities of this server."""

    def authorities(self) -> tuple[CaListing, ...]:
        """All that have a certificate; the same object as long as nothing changed."""

    async def crl(self, path: str) -> bytes | None:
        """The newest complete list of a distribution point, DER."""

    async def lists(self, name: str) -> tuple[CaList, ...]:
        """The newest lists of an authority that stand for all of it, those of its newest key first."""


@attrs.frozen
class Account:
    """Somebody who proved who they are."""

    name: str
    groups: frozenset[str]


class Login(Protocol):
    """The registration's connectors."""

    def password(self, name: str, password: Secret) -> Awaitable[Account | None]:
        """Whom a name and password show; None for nobody."""

    def certificate(self, der: bytes) -> Awaitable[Account | None]:
        """Whom a client certificate shows; None for nobody."""


@attrs.frozen
class ContactDraft:
    """A contact as a writer wants it: LDAP attribute names (as in the schema) and values, certificates in DER."""

    address: str
    attributes: tuple[tuple[str, tuple[str, ...]], ...]
    certificates: tuple[bytes, ...]


class Contacts(Protocol):
    """External contacts; raises :class:`pkiserver.foundation.errors.Rejected` with what will not do."""

    async def put(self, draft: ContactDraft, *, replace: bool, by: str) -> None:
        """Keep a contact."""

    async def delete(self, address: str, *, by: str) -> None:
        """Remove one."""
