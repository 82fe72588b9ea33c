"""Publishing on issue: the names of a certificate enter the index in the transaction that stores it."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.authority.requests import IssuedCertificate
from pkiserver.authority.templates.library import TemplateLibrary
from pkiserver.publication.certificate import addresses_of, can_encrypt, index_keys
from pkiserver.store.outbox import gather_addresses
from pkiserver.store.publication import addressbook as rows

Also = Callable[[Connection, IssuedCertificate], None]


@attrs.frozen
class Publisher:
    """What is to become durable together with a certificate that the address book shows."""

    templates: TemplateLibrary

    def on_issue(self, template: str) -> Also | None:
        """For a certificate of that template; None where the address book does not show them."""
        found = self.templates.find(template)
        if found is None or not found.publication.addressbook:
            return None
        shown = found.publication.attributes

        def publish(connection: Connection, issued: IssuedCertificate) -> None:
            parsed = x509.load_der_x509_certificate(issued.der)
            if not can_encrypt(parsed):
                return
            rows.put_keys(connection, issued.certificate_id, index_keys(issued.der, shown))
            row = rows.by_number(connection, issued.certificate_id)
            if row is not None:
                gather_addresses(connection, [rows.address_key(one) for one in addresses_of(row, parsed)])

        return publish
