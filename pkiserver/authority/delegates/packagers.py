"""Who signs packages of server-generated keys: for each authority a key and a certificate, made when first needed.

RFC 7030 section 4.4.2 wants the package signed by the party that generated the key; RFC 9483 section 4.1.6 gives such a
party the purpose id-kp-cmKGA. The key is bound to the CMS door; a successor is made before the certificate ends.
"""

from __future__ import annotations

from datetime import timedelta

import attrs
from cryptography import x509
from sqlalchemy import Connection
from twisted.logger import Logger

from pkiserver.authority.authorities import Issuing
from pkiserver.authority.delegates.ownkeys import BACKDATE, OwnKeys
from pkiserver.authority.extensions import extension, key_usage
from pkiserver.authority.model import Generation
from pkiserver.authority.order import Order
from pkiserver.authority.status.turns import Turn
from pkiserver.authority.templates.usages import Usage
from pkiserver.foundation.errors import Unavailable
from pkiserver.keys.doors import Door
from pkiserver.store import certificates
from pkiserver.store.authority import keys as key_rows
from pkiserver.store.certificates import CertificateState

TEMPLATE = "cmp-kga"
"""The template name that these certificates carry in the records."""
VALIDITY = timedelta(days=365)
RENEW_BEFORE = timedelta(days=30)
_KEY_GENERATION = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.32")


@attrs.frozen
class Packager:
    """A key that signs key packages: its name in the key ring, its certificate and the issuer's chain, DER."""

    key_name: str
    certificate: bytes = attrs.field(repr=False)
    chain: tuple[bytes, ...] = attrs.field(repr=False)


@attrs.frozen
class Packagers:
    """Finds and makes the signers of key packages, whichever process comes first."""

    own: OwnKeys

    async def get(self, authority: str) -> Packager:
        """The signer for an authority, made now where there is none that lasts.

        Raises:
            Rejected: the authority cannot issue, with every reason.
            Unavailable: key or database are away, or another process is making one.
        """
        generation = self.own.authorities.get(authority).current
        issuing = self.own.authorities.issuing(authority)
        found = await self._find(generation, issuing)
        if found is not None:
            return found
        async with self.own.turns.turn(f"key-packager:{generation.id}") as turn:
            if turn is None:
                raise Unavailable("another process is making the key that signs key packages", retry_after=5)
            # Another process may have been here before us.
            return await self._find(generation, issuing) or await self._make(generation, issuing, turn)

    async def _find(self, generation: Generation, issuing: Issuing) -> Packager | None:
        now = self.own.clock.now()
        lasting = min(now + RENEW_BEFORE, generation.certificate.not_after - BACKDATE)

        def work(connection: Connection) -> tuple[str, bytes] | None:
            for row in key_rows.list_all(connection):
                if not row.name.startswith(_prefix(generation)):
                    continue
                for one in certificates.valid_by_key(connection, row.spki_sha256, now=now, template=TEMPLATE):
                    usable = one.state is CertificateState.ISSUED and one.not_after > lasting
                    if usable and one.der is not None and one.generation_id == generation.id:
                        return row.name, one.der
            return None

        found = await self.own.database.read(work)
        if found is None:
            return None
        if found[0] not in {key.name for key in self.own.keys.list()}:
            await self.own.keys.refresh()
        return Packager(found[0], found[1], issuing.chain)

    async def _make(self, generation: Generation, issuing: Issuing, turn: Turn) -> Packager:
        name = self.own.new_name(_prefix(generation))
        key_type = self.own.keys.show(issuing.key_name).key_type
        await self.own.generate(name, key_type, (Door.CMS,), beside=issuing.key_name)
        issued = await self.own.certify(self._order(generation, issuing, name), turn)
        Logger(namespace="pkiserver.packagers").info(
            "{authority}: new signer of key packages {key}, serial {serial}",
            authority=generation.authority,
            key=name,
            serial=f"{issued.serial:x}",
        )
        return Packager(name, issued.der, issuing.chain)

    def _order(self, generation: Generation, issuing: Issuing, key_name: str) -> Order:
        ca, now = generation.certificate, self.own.now()
        return self.own.order(
            key_name,
            TEMPLATE,
            issuing=issuing,
            ca=ca,
            subject=f"Key generation {generation.authority} {generation.number}.{now:%Y%m%d}",
            not_after=min(now + VALIDITY, ca.not_after),
            extensions=(
                key_usage(frozenset({Usage.DIGITAL_SIGNATURE}), critical=True),
                extension(x509.ExtendedKeyUsage([_KEY_GENERATION])),
            ),
        )


def _prefix(generation: Generation) -> str:
    return f"kga-g{generation.id}-"
