"""What of a certificate matters to the address book: whether mail can be encrypted to it, and its names."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from pkiserver.authority import certparts
from pkiserver.foundation import der
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.publication.values import NameKind
from pkiserver.store.publication.addressbook import BookCertificate, address_key, name_key

_SMTP_UTF8 = "1.3.6.1.5.5.7.8.9"
ATTRIBUTES: dict[str, ObjectIdentifier] = {
    "cn": NameOID.COMMON_NAME,
    "sn": NameOID.SURNAME,
    "givenName": NameOID.GIVEN_NAME,
    "o": NameOID.ORGANIZATION_NAME,
    "ou": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "l": NameOID.LOCALITY_NAME,
    "c": NameOID.COUNTRY_NAME,
    "title": NameOID.TITLE,
    "telephoneNumber": ObjectIdentifier("2.5.4.20"),
}
_MAIL_PURPOSES = {ExtendedKeyUsageOID.EMAIL_PROTECTION, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}


def can_encrypt(certificate: x509.Certificate) -> bool:
    """Whether its usages let mail be encrypted to it (RFC 8550 section 4.4)."""
    usage = extension_value(certificate, x509.KeyUsage)
    if usage is not None and not (usage.key_encipherment or usage.key_agreement):
        return False
    purposes = extension_value(certificate, x509.ExtendedKeyUsage)
    return purposes is None or not _MAIL_PURPOSES.isdisjoint(purposes)


def can_sign(certificate: x509.Certificate) -> bool:
    """Whether its key may sign mail, and with it what the person's mail program can do."""
    usage = extension_value(certificate, x509.KeyUsage)
    return usage is None or usage.digital_signature or usage.content_commitment


def mail_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The mail addresses in a certificate, those beyond ASCII too."""
    names = extension_value(certificate, x509.SubjectAlternativeName)
    if names is None:
        return ()
    return (*names.get_values_for_type(x509.RFC822Name), *utf8_addresses(certificate))


def key_family(certificate: x509.Certificate) -> str:
    """The kind of its key: one of each is shown, as a mail client may be able to use one and not another."""
    return certificate.public_key_algorithm_oid.dotted_string


def subject_names(certificate: x509.Certificate, shown: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The attributes of its subject that are shown."""
    found = {}
    for name, oid in ATTRIBUTES.items():
        if name in shown:
            values = tuple(str(one.value) for one in certificate.subject.get_attributes_for_oid(oid) if one.value)
            if values:
                found[name] = values
    if "cn" in found and "sn" in shown:
        # inetOrgPerson must have a surname (RFC 4519 section 3.12): the last word will do
        found.setdefault("sn", tuple(words[-1] for one in found["cn"][:1] if (words := one.split())))
    return found


def utf8_addresses(certificate: x509.Certificate) -> Iterator[str]:
    """Its addresses with a local part beyond ASCII (SmtpUTF8Mailbox of RFC 9598)."""
    names = extension_value(certificate, x509.SubjectAlternativeName)
    if names is None:
        return
    for name in names.get_values_for_type(x509.OtherName):
        if name.type_id.dotted_string == _SMTP_UTF8:
            with contextlib.suppress(der.NotDer):
                yield der.read_utf8_string(name.value)


def addresses_of(certificate: BookCertificate, parsed: x509.Certificate) -> tuple[str, ...]:
    """Every mail address that a certificate is for, as it writes them."""
    return (*certificate.addresses, *utf8_addresses(parsed))


def index_keys(data: bytes, shown: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    """Under which keys a published certificate is found, beside its ordinary mail addresses.

    The hashes are those of RFC 4387 section 2.1: SHA-1 over the certificate, over issuer and serial, over the subject,
    and over the subject key identifier, in base64. They find, and prove nothing.
    """
    certificate = x509.load_der_x509_certificate(data)
    names = subject_names(certificate, shown)
    keys = {
        (kind.value, name_key(value))
        for kind, attribute in ((NameKind.CN, "cn"), (NameKind.SN, "sn"), (NameKind.GIVEN, "givenName"))
        for value in names.get(attribute, ())
    }
    keys |= {(NameKind.MAIL.value, address_key(one)) for one in utf8_addresses(certificate)}
    keys.add((NameKind.HASH.value, sha1(data)))
    keys.add((NameKind.ISSUER_SERIAL.value, sha1(issuer_and_serial(data))))
    keys.add((NameKind.SUBJECT.value, sha1(certparts.subject_octets(data))))
    identifier = extension_value(certificate, x509.SubjectKeyIdentifier)
    if identifier is not None:
        keys.add((NameKind.SUBJECT_KEY.value, sha1(identifier.digest)))
    return frozenset(keys)


def issuer_and_serial(data: bytes) -> bytes:
    """The IssuerAndSerialNumber (RFC 5652 section 10.2.4) of a DER certificate."""
    serial = x509.load_der_x509_certificate(data).serial_number
    return der.sequence(certparts.issuer_octets(data), der.integer(serial))


def sha1(data: bytes) -> str:
    """The base64 of a SHA-1, without padding."""
    return base64.b64encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode().rstrip("=")
