"""userSMIMECertificate: a SignedData by the person's own key that announces what their mail program can do.

RFC 2798 section 2.8: it holds the certificate and the smimeCapabilities, signed, so that nobody else can announce
weaker algorithms. The signature is checked by who reads the message, since CMS is a protocol's matter; here it is
decided whether its signer is the person.
"""

from __future__ import annotations

import hashlib

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store import certificates
from pkiserver.store.certificates import CertificateState
from pkiserver.store.database import Database
from pkiserver.store.publication.addressbook import address_key
from pkiserver.store.publication.addressbook_smime import SmimeMessage, put_smime


@attrs.frozen
class SmimeWriter:
    """Keeps the messages that people signed."""

    database: Database
    audit: AuditLog
    clock: Clock

    async def put(self, address: str, message: bytes, signer: bytes, announced: bytes, *, by: str) -> None:
        """Keep a verified message under a person's address.

        Args:
            address: The person's.
            message: The SignedData, whose signature and smimeCapabilities have been verified.
            signer: The certificate that it verified with, DER.
            announced: The encryption certificate in it, DER; may be the same.
            by: Who does it.

        Raises:
            Rejected: one of the certificates was not issued here, is not in force, or is not this person's.
        """
        key = address_key(address)
        now = self.clock.now()

        def store(connection: Connection) -> None:
            for der in (signer, announced):
                found = certificates.by_fingerprint(connection, hashlib.sha256(der).digest())
                if found is None or found.state is not CertificateState.ISSUED or found.not_after < now:
                    raise Rejected.because(Refusal.NOT_AUTHORISED, "a certificate was not issued here or is not valid")
                if key not in {address_key(san.value) for san in found.sans if san.kind.value == "email"}:
                    raise Rejected.because(Refusal.BAD_NAME, f"a certificate is not for {key}")
            digests = [hashlib.sha256(der).digest() for der in (announced, signer)]
            put_smime(connection, SmimeMessage(key, message, *digests), now=now)
            change = (("change", "userSMIMECertificate published"),)
            event = AuditEvent(AuditKind.CONFIGURATION, actor=by, object=f"address book {key}", details=change)
            self.audit.append(connection, event)

        await self.database.write(store)
