"""Certificate exact assertions (RFC 4523 section 4.1), in the forms that clients send."""

from __future__ import annotations

import re

import attrs
from cryptography import x509

from pkiserver.foundation.unreadable import UNREADABLE
from protocols.addressbook.errors import LdapError
from protocols.addressbook.names import Dn, normal, parse_dn

_GSER = re.compile(
    r"\s*\{\s*serialNumber\s+(?:([0-9]{1,60})|'([0-9A-Fa-f]{1,50})'H)\s*,\s*issuer\s+(?:rdnSequence:)?"
    r'"((?:[^"]|""){0,2000})"\s*\}\s*',
    re.IGNORECASE,
)
_DOLLAR = re.compile(r"\s*(?:([0-9]{1,60})|0x([0-9A-Fa-f]{1,50}))\s*\$\s*(.{1,2000})", re.DOTALL)


@attrs.frozen
class CertificateAssertion:
    """A serial number and an issuer's name, in the form in which names are compared."""

    serial: int
    issuer: Dn


def parse_assertion(value: bytes) -> CertificateAssertion | None:
    """The assertion in a value: GSER, OpenLDAP's old ``serial$issuer``, or a whole certificate; else None."""
    if value[:1] == b"\x30":
        return assertion_of(value)
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    if (match := _GSER.fullmatch(text)) is not None:
        issuer = match[3].replace('""', '"')
    elif (match := _DOLLAR.fullmatch(text)) is not None:
        issuer = match[3]
    else:
        return None
    serial = int(match[1]) if match[1] else int(match[2], 16)
    try:
        return CertificateAssertion(serial, normal(parse_dn(issuer.encode())))
    except LdapError:
        return None


def assertion_of(certificate: bytes) -> CertificateAssertion | None:
    """What an assertion must say to match a certificate (DER)."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        issuer = parsed.issuer.rfc4514_string()
        return CertificateAssertion(parsed.serial_number, normal(parse_dn(issuer.encode())))
    except (*UNREADABLE, LdapError):
        return None
