"""Going through all certificates: what the index of names should hold, what it holds, and making them agree.

Needed after a template's publication settings changed, since the index is written when a certificate is issued. By mail
address certificates are found without it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.authority.templates.library import TemplateLibrary
from pkiserver.authority.templates.model import PublicationRules
from pkiserver.publication.certificate import can_encrypt, index_keys
from pkiserver.store.database import Database
from pkiserver.store.outbox import gather_addresses
from pkiserver.store.publication import addressbook as rows
from pkiserver.store.publication import addressbook_scan
from pkiserver.store.publication.addressbook import BookCertificate, address_key

_STEP = 500


@attrs.frozen
class Difference:
    """A certificate whose index rows are not what they should be."""

    certificate_id: int
    addresses: tuple[str, ...]
    missing: frozenset[tuple[str, str]]
    surplus: frozenset[tuple[str, str]]


@attrs.frozen
class Resync:
    """Compares and repairs, a few hundred certificates at a time, so that the server goes on meanwhile."""

    database: Database
    templates: TemplateLibrary

    async def differences(self) -> AsyncIterator[Difference]:
        """Every certificate whose index rows are wrong, by number."""
        rules = {one.template.name: one.template.publication for one in self.templates.list()}
        last = 0
        while True:
            step = await self.database.read(partial(_compare, after=last, rules=rules))
            for one in step.found:
                yield one
            if step.last is None:
                return
            last = step.last

    async def repair(self, difference: Difference) -> None:
        """Make one certificate's rows what they should be."""

        def work(connection: Connection) -> None:
            rows.remove_keys(connection, difference.certificate_id)
            row = rows.by_number(connection, difference.certificate_id)
            rules = None if row is None else self.templates.find(row.template)
            if row is not None and rules is not None:
                rows.put_keys(connection, row.id, wanted_keys(row, rules.publication))
            gather_addresses(connection, map(address_key, difference.addresses))

        await self.database.write(work)


@attrs.frozen
class _Step:
    found: tuple[Difference, ...]
    last: int | None


def _compare(connection: Connection, *, after: int, rules: dict[str, PublicationRules]) -> _Step:
    certificates = addressbook_scan.certificates_after(connection, after, limit=_STEP)
    found = []
    for one in certificates:
        wanted = wanted_keys(one, rules.get(one.template))
        held = rows.keys_of(connection, one.id)
        if wanted != held:
            found.append(Difference(one.id, one.addresses, wanted - held, held - wanted))
    return _Step(tuple(found), certificates[-1].id if len(certificates) == _STEP else None)


def wanted_keys(row: BookCertificate, rules: PublicationRules | None) -> frozenset[tuple[str, str]]:
    """What the index should hold for a certificate."""
    if rules is None or not rules.addressbook or not can_encrypt(x509.load_der_x509_certificate(row.der)):
        return frozenset()
    return index_keys(row.der, rules.attributes)
