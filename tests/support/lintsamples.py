"""Certificates good and bad for the linter, and what pkilint itself says about them."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pkilint import loader
from pkilint.pkix import certificate, name
from pkilint.pkix import extension as pkilint_extension

from pkiserver.authority.checks.lint import Finding, _mistaken

NOW = datetime(2026, 11, 21, tzinfo=UTC)
SIGNERS: list[Any] = [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()]
KEYS: list[Any] = [
    *(ec.generate_private_key(ec.SECP256R1()).public_key() for _ in range(2)),
    ec.generate_private_key(ec.SECP384R1()).public_key(),
    ed25519.Ed25519PrivateKey.generate().public_key(),
    rsa.generate_private_key(65537, 1024).public_key(),
]


def names() -> list[x509.Name]:
    """Good and bad names; the first has nothing in it."""
    long = x509.NameAttribute(NameOID.COMMON_NAME, "x" * 70, _validate=False)
    return [
        x509.Name([]),
        x509.Name.from_rfc4514_string("CN=Subject,O=Example,C=CH"),
        x509.Name.from_rfc4514_string("CN=Issuing,O=Example,C=CH"),
        x509.Name([x509.NameAttribute(NameOID.EMAIL_ADDRESS, "not a mailbox")]),
        x509.Name([x509.NameAttribute(NameOID.EMAIL_ADDRESS, "somebody@example.com")]),
        x509.Name([x509.NameAttribute(NameOID.COUNTRY_NAME, "Switzerland", _validate=False), long]),
        x509.Name([x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "under_score")]),
        x509.Name([x509.NameAttribute(x509.ObjectIdentifier("1.2.3.4.5"), "odd")]),
    ]


def usage(*bits: int) -> x509.KeyUsage:
    """The keyUsage with these bits."""
    wanted = [one in bits for one in range(9)]
    return x509.KeyUsage(*wanted)


def values() -> list[list[x509.ExtensionType]]:
    """Good and bad values by extension; a certificate takes at most one of each list."""
    uri, dns, mail = x509.UniformResourceIdentifier, x509.DNSName, x509.RFC822Name
    oid = x509.ObjectIdentifier
    notice = x509.UserNotice(x509.NoticeReference("us", [1]), "text" * 60)
    return [
        [x509.BasicConstraints(True, None), x509.BasicConstraints(False, None), x509.BasicConstraints(True, 0)],
        [usage(0), usage(5, 6), usage(2, 3), usage(4, 7), usage(0, 1, 2, 3, 4, 5, 6, 7, 8)],
        [
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]),
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]),
        ],
        [x509.SubjectKeyIdentifier.from_public_key(KEYS[0]), x509.SubjectKeyIdentifier(b"other")],
        [
            x509.AuthorityKeyIdentifier(b"12345678", None, None),
            x509.AuthorityKeyIdentifier(None, [dns("a b")], 5),
            x509.AuthorityKeyIdentifier(None, None, None),
        ],
        [
            x509.SubjectAlternativeName([dns("good.example")]),
            x509.SubjectAlternativeName([dns("under_score.example"), mail("not a mailbox"), uri("::")]),
            x509.SubjectAlternativeName([mail("somebody@example.com"), dns(""), uri("http://one/")]),
            x509.SubjectAlternativeName([x509.OtherName(oid("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x03a@b")]),
            x509.SubjectAlternativeName([x509.OtherName(oid("1.3.6.1.5.5.7.8.9"), b"\x02\x01\x05")]),
        ],
        [
            x509.CRLDistributionPoints([x509.DistributionPoint([uri("http://ca.example/1.crl")], None, None, None)]),
            x509.CRLDistributionPoints([x509.DistributionPoint([uri("relative")], None, None, None)]),
            x509.CRLDistributionPoints([x509.DistributionPoint(None, None, None, [dns("crl.example")])]),
        ],
        [
            x509.AuthorityInformationAccess(
                [x509.AccessDescription(oid("1.3.6.1.5.5.7.48.1"), uri("http://ca.example/ocsp"))]
            ),
            x509.AuthorityInformationAccess([x509.AccessDescription(oid("1.3.6.1.5.5.7.48.2"), uri("no uri at all"))]),
        ],
        [
            x509.CertificatePolicies([x509.PolicyInformation(oid("1.2.3"), None)]),
            x509.CertificatePolicies([x509.PolicyInformation(oid("1.2.3"), ["http://cps/", notice])]),
            x509.CertificatePolicies([x509.PolicyInformation(oid("1.2.3"), None)] * 2),
        ],
        [x509.NameConstraints([dns("example")], None), x509.NameConstraints(None, [uri("example")])],
        [x509.PolicyConstraints(0, None), x509.InhibitAnyPolicy(1), x509.IssuerAlternativeName([dns("x y")])],
        [
            x509.UnrecognizedExtension(oid("2.5.29.9"), b"\x30\x00"),
            x509.UnrecognizedExtension(oid("1.3.6.1.4.1.11129.2.4.3"), b"\x05\x00"),
            x509.UnrecognizedExtension(oid("1.3.6.1.5.5.7.1.3"), bytes.fromhex("300a300806062b06010505070b01")),
            x509.UnrecognizedExtension(oid("1.2.3.4"), b"anything"),
        ],
    ]


def sample(rng: random.Random) -> bytes:
    """A certificate that is good or bad in some ways."""
    backwards = rng.random() < 0.1
    start = NOW + timedelta(days=rng.choice((0, 0, 30, 40_000)))
    builder = x509.CertificateBuilder(
        issuer_name=rng.choice(names()[1:]),
        subject_name=rng.choice(names()),
        public_key=rng.choice(KEYS),
        serial_number=rng.choice((1, 2**158 + 5, 2**127 - 1)),
    )
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=90))
    for choices in rng.sample(values(), rng.randint(0, 9)):
        builder = builder.add_extension(rng.choice(choices), critical=rng.random() < 0.3)
    signer = rng.choice(SIGNERS)
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else rng.choice((hashes.SHA256(), hashes.SHA384()))
    der = builder.sign(signer, digest).public_bytes(serialization.Encoding.DER)
    return der.replace(b"\x17\x0d27", b"\x17\x0d21") if backwards else der


def broken(rng: random.Random, der: bytes) -> bytes:
    """The certificate with one octet changed, left out or put in."""
    at = rng.randrange(len(der))
    match rng.randrange(4):
        case 0:
            return der[:at] + der[at + 1 :]
        case 1:
            return der[:at] + bytes((rng.randrange(256),)) + der[at:]
        case _:
            return der[:at] + bytes((rng.randrange(256),)) + der[at + 1 :]


@cache
def _own() -> Any:
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, pkilint_extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


def verdict(der: bytes) -> tuple[Finding, ...]:
    """What pkilint's own walk over the whole document finds, in its order, worst first."""
    try:
        root = loader.load_der_certificate(der, "certificate").root
    except ValueError as error:
        return (Finding(0, "itu.invalid_asn1_syntax", str(error), "certificate"),)
    found = [
        Finding(
            int(one.finding.severity),
            one.finding.code,
            one.message or "",
            result.node.path.removeprefix("certificate.tbsCertificate."),
        )
        for result in _own().validate(root)
        for one in result.finding_descriptions
        if one.finding.severity <= 3 and not _mistaken(one.finding.code, result.node)
    ]
    return tuple(sorted(found, key=lambda finding: finding.severity))
