"""userSMIMECertificate for keys that are generated here: made while the key is at hand, kept with the certificate."""

from __future__ import annotations

import attrs
from cryptography import x509
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from pkiserver.authority.requests import IssuedCertificate
from pkiserver.foundation.errors import PkiError
from pkiserver.keys.algorithms import PrivateKey
from pkiserver.publication.certificate import can_encrypt, can_sign, mail_names
from pkiserver.publication.smime import SmimeWriter
from pkiserver.runtime.engine import Engine
from protocols.addressbook.smime import read_announcement
from protocols.cms.announcing import announce

_log = Logger(namespace="pkiserver.addressbook")


@attrs.frozen
class Announcements:
    """Announces what can be done with certificates whose keys were made here, where the address book shows them."""

    engine: Engine

    async def generated(self, issued: IssuedCertificate, key: PrivateKey) -> None:
        """Keep the announcement for a certificate; a failure is logged, the certificate is as good without it."""
        template = self.engine.templates.find(issued.template)
        certificate = x509.load_der_x509_certificate(issued.der)
        addresses = mail_names(certificate)
        shown = template is not None and template.publication.addressbook
        if not shown or not addresses or not can_encrypt(certificate) or not can_sign(certificate):
            return
        now = self.engine.clock.now()
        writer = SmimeWriter(self.engine.database, self.engine.audit, self.engine.clock)
        try:
            message = await deferToThread(announce, key, issued.der, issued.chain, now)
            found = read_announcement(message)
            for address in addresses:
                await writer.put(address, message, found.signer, found.announced, by="system")
        except PkiError as error:
            _log.warn("no userSMIMECertificate for {addresses}: {why}", addresses=", ".join(addresses), why=str(error))
