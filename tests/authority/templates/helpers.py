"""A CA, requests and templates for the tests of this room."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.x509.oid import NameOID

from pkiserver.authority.requests import (
    Authorised,
    EnrollmentRequest,
    ProofKind,
    ProofOfPossession,
    RegistrationRecord,
    RequestedExtension,
    Wishes,
    spki_der,
)
from pkiserver.authority.templates.build import CertificateContent, IssuerView, build_content
from pkiserver.authority.templates.library import load_template
from pkiserver.authority.templates.model import Template
from pkiserver.foundation.errors import Rejected

CN_REQUEST = '[[subject.parts]]\nattribute = "common_name"\nfrom = "request"\nrequired = true\n'
DNS_REQUEST = '[[sans.parts]]\nkind = "dns"\nfrom = "request"\n'
NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
CA_KEY = ec.derive_private_key(0xCA11AB1E, ec.SECP256R1())
ALICE = RegistrationRecord(
    "alice",
    frozenset({"staff"}),
    (
        ("display_name", "Alice Ångström"),
        ("mail", "alice@example.com"),
        ("mail", "a.angstrom@example.com"),
        ("upn", "alice@corp.example.com"),
        ("sid", "S-1-5-21-1004336348-1177238915-682003330-512"),
        ("organization", "Example Ltd"),
        ("country", "SE"),
    ),
)


@cache
def key(kind: str = "ec-p256") -> Any:
    """A private key of a kind, made once."""
    curves = {"ec-p256": ec.SECP256R1(), "ec-p384": ec.SECP384R1(), "ec-p521": ec.SECP521R1()}
    if kind in curves:
        return ec.generate_private_key(curves[kind])
    if kind.startswith("rsa-"):
        return rsa.generate_private_key(65537, int(kind[4:]))
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else mldsa.MLDSA65PrivateKey.generate()


def name(*pairs: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs])


def raw_name(*pairs: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    """A name that cryptography would not make, but does read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x509.Name([x509.NameAttribute(oid, value, _validate=False) for oid, value in pairs])


def cn(value: str) -> x509.Name:
    return name((NameOID.COMMON_NAME, value))


@cache
def issuer(path_length: int | None = 1, years: int = 10) -> IssuerView:
    subject = name((NameOID.COUNTRY_NAME, "SE"), (NameOID.COMMON_NAME, "Test Issuing CA"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(CA_KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(NOW + timedelta(days=365 * years))
        .add_extension(x509.BasicConstraints(True, path_length), True)
        .add_extension(x509.SubjectKeyIdentifier(b"issuer key identifier"), False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            True,
        )
        .sign(CA_KEY, hashes.SHA256())
    )
    return IssuerView(
        "issuing",
        certificate,
        (("http://pki.example.com/crl/issuing.crl",),),
        ("http://pki.example.com/ocsp",),
        ("http://pki.example.com/ca/issuing.cer",),
    )


MINIMAL = """
kind = "template"
name = "test"
issuer = "issuing"
protocols = ["est"]
keys = ["ec-p256", "rsa-2048"]
"""


def template(body: str, head: str = MINIMAL) -> Template:
    """A template from the minimal head and the rest; validity of 90 days unless the body says otherwise."""
    if "[validity]" not in body:
        body += '\n[validity]\nduration = "90d"\n'
    return load_template(head + body, "test.toml")


def request(
    subject: x509.Name | None = None,
    *sans: x509.GeneralName,
    extensions: tuple[RequestedExtension, ...] = (),
    record: RegistrationRecord = ALICE,
    kind: str = "ec-p256",
    protocol: str = "est",
    **wishes: Any,
) -> Authorised:
    public = key(kind).public_key()
    asked = EnrollmentRequest(
        template="test",
        public_key=public,
        spki=spki_der(public),
        proof=ProofOfPossession(ProofKind.CSR_SIGNATURE, True),
        wishes=Wishes(subject, sans, extensions, **wishes),
        evidence=(),
        protocol=protocol,
        source="192.0.2.1",
        request_id="r1",
    )
    return Authorised(asked, record, "test")


def build(made: Template, asked: Authorised, view: IssuerView | None = None) -> CertificateContent:
    return build_content(made, asked, view or issuer(), NOW)


def refusals(made: Template, asked: Authorised, view: IssuerView | None = None) -> list[str]:
    """The texts of every reason; fails when the request is not refused."""
    try:
        content = build(made, asked, view)
    except Rejected as error:
        return [reason.text for reason in error.reasons]
    raise AssertionError(f"not refused: {content}")


def signed(content: CertificateContent, public: Any) -> x509.Certificate:
    """The content as a certificate, as the road builds it, and read back from DER."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(content.subject)
        .issuer_name(issuer().certificate.subject)
        .public_key(public)
        .serial_number(0x1234567890ABCDEF1234567890ABCDEF)
        .not_valid_before(content.not_before)
        .not_valid_after(content.not_after)
    )
    for extension in content.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(CA_KEY, hashes.SHA256())


def with_override(subject: x509.Name | None, sans: tuple[x509.GeneralName, ...] | None) -> RegistrationRecord:
    return attrs.evolve(ALICE, subject=subject, sans=sans)


def of(content: CertificateContent, kind: type[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    """The extension of that kind."""
    return next(item for item in content.extensions if isinstance(item.value, kind))
