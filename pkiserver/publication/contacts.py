"""External contacts, and who opted out: what administrators write, checked, audited and told in the feed."""

from __future__ import annotations

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.foundation.unreadable import UNREADABLE
from pkiserver.publication.certificate import ATTRIBUTES, can_encrypt
from pkiserver.publication.values import NameKind
from pkiserver.store.database import Database
from pkiserver.store.publication import addressbook as rows
from pkiserver.store.publication.addressbook import Contact, address_key, name_key

MOST_CERTIFICATES = 16
MOST_VALUES = 16
MOST_ADDRESS = 320
"""Characters of a mail address (RFC 5321 section 4.5.3.1)."""
LONGEST_VALUE = 512
_TEXTS = frozenset({*ATTRIBUTES, "displayName", "description", "mail"})
_INDEXED = {"cn": NameKind.CN, "sn": NameKind.SN, "givenName": NameKind.GIVEN}


@attrs.frozen
class ContactWriter:
    """Writes contacts and opt-outs."""

    database: Database
    audit: AuditLog
    clock: Clock

    async def put(
        self,
        address: str,
        attributes: tuple[tuple[str, tuple[str, ...]], ...],
        certificates: tuple[bytes, ...],
        *,
        replace: bool,
        by: str,
    ) -> None:
        """Keep a contact under its address.

        Raises:
            Rejected: with every reason, or the contact is there already, or is not.
        """
        key = address_key(address)
        texts = dict(attributes)
        mails = texts.pop("mail", ()) or (address,)
        reasons = [*_address_reasons(key, mails), *_text_reasons(texts), *self._certificate_reasons(key, certificates)]
        if reasons:
            raise Rejected(reasons)
        cn = texts.setdefault("cn", (address,))
        texts.setdefault("sn", (cn[0].split()[-1],))
        contact = Contact(key, mails, tuple(texts.items()), certificates, by, self.clock.now())
        keys = {(NameKind.MAIL.value, address_key(one)) for one in (key, *mails)}
        keys |= {(kind.value, name_key(value)) for name, kind in _INDEXED.items() for value in texts.get(name, ())}

        def store(connection: Connection) -> None:
            rows.put_contact(connection, contact, keys, replace=replace)
            self.audit.append(connection, _event("contact changed" if replace else "contact added", key, by))

        await self.database.write(store)

    async def delete(self, address: str, *, by: str) -> None:
        """Remove a contact; raises :class:`Rejected` where there is none."""
        key = address_key(address)

        def remove(connection: Connection) -> None:
            if not rows.delete_contact(connection, key):
                raise Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no contact {address}")
            self.audit.append(connection, _event("contact removed", key, by))

        await self.database.write(remove)

    async def opt_out(self, address: str, *, out: bool, by: str) -> bool:
        """Leave a person out, or let them in again; whether that changed anything.

        Raises:
            Rejected: it is no mail address, so that nobody would be left out by it.
        """
        local, _, domain = address.rpartition("@")
        if out and (not local or not domain or len(address) > MOST_ADDRESS):
            raise Rejected.because(Refusal.BAD_NAME, f"this is no mail address of up to {MOST_ADDRESS} characters")
        key = address_key(address)
        now = self.clock.now()

        def change(connection: Connection) -> bool:
            done = rows.set_opt_out(connection, key, out=out, author=by, now=now)
            if done:
                self.audit.append(connection, _event("opted out" if out else "opted in", key, by))
            return done

        return await self.database.write(change)

    def _certificate_reasons(self, key: str, certificates: tuple[bytes, ...]) -> list[Reason]:
        if not 1 <= len(certificates) <= MOST_CERTIFICATES:
            return [Reason(Refusal.MALFORMED, f"a contact has 1 to {MOST_CERTIFICATES} certificates")]
        reasons = []
        for data in certificates:
            problem = _certificate_problem(key, data)
            if problem is not None:
                reasons.append(Reason(Refusal.BAD_NAME, problem))
            elif x509.load_der_x509_certificate(data).not_valid_after_utc < self.clock.now():
                reasons.append(Reason(Refusal.BAD_VALIDITY, "the certificate has expired"))
        return reasons


def _certificate_problem(key: str, data: bytes) -> str | None:
    """Why a partner's certificate cannot be shown under an address; its chain is for those who use it to judge."""
    try:
        certificate = x509.load_der_x509_certificate(data)
        usable = can_encrypt(certificate)
        certificate.public_key()
    except UNREADABLE:
        return "not a certificate in DER"
    if not usable:
        return "mail cannot be encrypted to this certificate: its usages forbid it"
    named = set(certificate.subject.get_attributes_for_oid(x509.NameOID.EMAIL_ADDRESS))
    addresses = {address_key(str(one.value)) for one in named}
    sans = extension_value(certificate, x509.SubjectAlternativeName)
    if sans is not None:
        addresses |= {address_key(one) for one in sans.get_values_for_type(x509.RFC822Name)}
    return None if key in addresses else f"the certificate is not for {key}"


def _address_reasons(key: str, mails: tuple[str, ...]) -> list[Reason]:
    reasons = [
        Reason(Refusal.BAD_NAME, f"{mail!r} is not a mail address")
        for mail in (key, *mails)
        if "@" not in mail[1:-1] or len(mail) > 254 or any(c.isspace() or not c.isprintable() for c in mail)
    ]
    if key not in map(address_key, mails):
        reasons.append(Reason(Refusal.BAD_NAME, "the address of the entry is not among its mail addresses"))
    return reasons


def _text_reasons(texts: dict[str, tuple[str, ...]]) -> list[Reason]:
    reasons = [Reason(Refusal.MALFORMED, f"a contact has no {name}") for name in texts if name not in _TEXTS]
    for name, values in texts.items():
        if len(values) > MOST_VALUES or any(
            not v.strip() or len(v) > LONGEST_VALUE or not v.isprintable() for v in values
        ):
            reasons.append(Reason(Refusal.MALFORMED, f"{name} has too many values, or one that is empty or too long"))
    return reasons


def _event(change: str, address: str, by: str) -> AuditEvent:
    return AuditEvent(
        AuditKind.CONFIGURATION, actor=by, object=f"address book {address}", details=(("change", change),)
    )
