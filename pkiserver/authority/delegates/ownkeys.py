"""Keys that the server makes for itself, each certified by a CA of its own: what all their keepers have in common.

OCSP responders, registration authorities, signers of key packages and time-stamping units each have a keeper, which
says when a key is due and what its certificate says. How such a key is named, made in its authority's key store and
certified, and which ones nobody uses any more, is said here.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.authority.authorities import Authorities, Issuing
from pkiserver.authority.extensions import Extension, extension, subject_key_identifier
from pkiserver.authority.issue import Issuer
from pkiserver.authority.model import CaCertificate
from pkiserver.authority.order import Order
from pkiserver.authority.prepare import Preparer
from pkiserver.authority.requests import IssuedCertificate
from pkiserver.authority.status.turns import Turn, Turns
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.authority import keys as key_rows
from pkiserver.store.authority.key_use import certified_until
from pkiserver.store.authority.keys import SigningKey
from pkiserver.store.database import Database

ACTOR = "system"
"""Who asks for these keys and certificates, in the audit log and in the records."""
BACKDATE = timedelta(minutes=5)
"""How long before now their certificates begin, for those whose clocks are late."""
AFTERLIFE = timedelta(days=1)
"""How long a key is kept after the end of its last certificate."""


@attrs.frozen
class Unused:
    """Keys that no certificate uses: ``fresh`` ones never had one, since their maker died; ``spent`` ones had."""

    fresh: tuple[SigningKey, ...]
    spent: tuple[SigningKey, ...]


def find_unused(connection: Connection, prefixes: tuple[str, ...], now: datetime) -> Unused:
    """The keys with these names' beginnings that no certificate uses at ``now``, by name."""
    fresh, spent = [], []
    for row in key_rows.list_all(connection):
        if row.name.startswith(prefixes):
            until = certified_until(connection, row.spki_sha256)
            if until is None:
                fresh.append(row)
            elif until + AFTERLIFE < now:
                spent.append(row)
    return Unused(tuple(fresh), tuple(spent))


@attrs.frozen
class OwnKeys:
    """Makes keys and has them certified; ``turns`` let one process do it for all."""

    database: Database
    keys: KeyRing
    authorities: Authorities
    preparer: Preparer
    issuer: Issuer
    turns: Turns
    clock: Clock

    def now(self) -> datetime:
        """The time to the second, as certificates have it."""
        return self.clock.now().replace(microsecond=0)

    def new_name(self, prefix: str) -> str:
        """A name that no key has yet; names of one prefix are in the order of their making, by the second."""
        return f"{prefix}{self.clock.now():%Y%m%d%H%M%S}.{secrets.token_hex(4)}"

    async def generate(
        self, name: str, key_type: KeyType, doors: Iterable[Door], *, beside: str, store: str | None = None
    ) -> None:
        """Make a key in ``store``, or where the key ``beside`` is.

        Raises:
            Rejected: the store makes no such keys.
            Unavailable: the store is away.
        """
        place = store or self.keys.show(beside).provider
        if place is None:
            raise Unavailable(f"the key store of {beside} is away")
        await self.keys.generate(name, key_type, store=place, doors=doors, actor=ACTOR)

    async def delete(self, keys: Iterable[SigningKey]) -> None:
        """Destroy keys that no certificate uses."""
        for key in keys:
            await self.keys.delete(key.name, actor=ACTOR)

    async def certify(self, order: Order, turn: Turn) -> IssuedCertificate:
        """The road's second half: prepared, signed, stored; for whoever has the turn.

        Raises:
            Rejected: the authority cannot issue, with every reason.
            Unavailable: key or database are away, or the turn has passed to another process.
        """
        return await self.issuer.issue(await self.preparer.prepare_order(order, turn))

    def order(
        self,
        key_name: str,
        template: str,
        *,
        issuing: Issuing,
        ca: CaCertificate,
        subject: str | x509.Name,
        not_after: datetime,
        extensions: Iterable[Extension],
        not_before: datetime | None = None,
    ) -> Order:
        """A certificate for one of these keys, with key identifiers before the other ``extensions``.

        Args:
            key_name: the key.
            template: what the records call such certificates.
            issuing: by whom it is issued.
            ca: the certificate of that authority's key.
            subject: a DN, or a common name, which is cut to the 64 characters that RFC 5280 lets it have.
            not_after: its end.
            extensions: what it says beside authority and subject key identifier.
            not_before: its begin; by default :data:`BACKDATE` ago, but not before the authority's own.
        """
        public_key = self.keys.public_key(key_name)
        if isinstance(subject, str):
            subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject[:64])])
        return Order(
            issuing=issuing,
            subject=subject,
            public_key=public_key,
            not_before=not_before or max(self.now() - BACKDATE, ca.certificate.not_valid_before_utc),
            not_after=not_after,
            extensions=(
                extension(x509.AuthorityKeyIdentifier(ca.key_identifier, None, None)),
                extension(subject_key_identifier(public_key)),
                *extensions,
            ),
            template=template,
            requester=ACTOR,
            protocol="internal",
            request_id="",
        )
