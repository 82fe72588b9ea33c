"""Extensions of certificates as values, for all who want some: templates, CA profiles, keys of our own."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from pkiserver.authority.certparts import key_identifier
from pkiserver.authority.requests import spki_der
from pkiserver.authority.templates.usages import Usage
from pkiserver.foundation import der
from pkiserver.foundation.extensionvalue import extension_value

Extension = x509.Extension[x509.ExtensionType]


def extension(value: x509.ExtensionType, *, critical: bool = False) -> Extension:
    """An extension with its OID."""
    return x509.Extension(value.oid, critical, value)


def raw_extension(oid: str, value: bytes, *, critical: bool = False) -> Extension:
    """An extension from the DER of its value."""
    return extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=critical)


def encode_extension(extension: Extension) -> bytes:
    """The DER Extension; raises :class:`ValueError` or :class:`TypeError` where its value cannot be encoded."""
    return der.extension(extension.oid.dotted_string, extension.value.public_bytes(), critical=extension.critical)


def key_usage(usages: frozenset[Usage], *, critical: bool) -> Extension:
    """The key usage extension."""
    flags = {str(usage): usage in usages for usage in Usage}
    return extension(x509.KeyUsage(**flags), critical=critical)


def extended_key_usage(purposes: tuple[str, ...], *, critical: bool) -> Extension:
    """The extended key usage extension."""
    return extension(x509.ExtendedKeyUsage(map(x509.ObjectIdentifier, purposes)), critical=critical)


def subject_key_identifier(public_key: CertificatePublicKeyTypes) -> x509.SubjectKeyIdentifier:
    """The identifier that certificates of ours carry (RFC 7093 section 2 method 1)."""
    return x509.SubjectKeyIdentifier(key_identifier(spki_der(public_key)))


def issuer_key_identifier(issuer: x509.Certificate) -> bytes:
    """What goes into authorityKeyIdentifier: the issuer certificate's SKI byte for byte, computed where it has none."""
    own = extension_value(issuer, x509.SubjectKeyIdentifier)
    return (own or subject_key_identifier(issuer.public_key())).digest
