"""The to-be-signed certificate: names octet for octet, identifiers, serials, the end of time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.authority import certparts
from pkiserver.authority.checks.lint import Linter
from pkiserver.authority.checks.lintlevel import LintLevel
from pkiserver.authority.extensions import Extension, extension, issuer_key_identifier, raw_extension
from pkiserver.authority.extensions import subject_key_identifier as ski
from pkiserver.authority.lifecycle.profile import END_OF_TIME
from pkiserver.authority.requests import spki_der
from pkiserver.authority.tbs import Draft, build_draft, random_serial
from pkiserver.foundation import der
from pkiserver.foundation.errors import Rejected
from pkiserver.keys.algorithms import SignatureScheme

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
ISSUER = x509.Name.from_rfc4514_string("CN=Issuer,O=Example,C=CH")
SUBJECT = x509.Name.from_rfc4514_string("CN=Subject,O=Example,C=CH")
NOW = datetime(2026, 11, 21, tzinfo=UTC)


def _draft(
    issuer_der: bytes | None = None,
    subject_der: bytes | None = None,
    scheme: str = "ecdsa-sha256",
    end: datetime = NOW + timedelta(days=90),
    more: Iterable[Extension] = (),
) -> Draft:
    return build_draft(
        issuer_der=issuer_der or ISSUER.public_bytes(),
        subject=SUBJECT,
        subject_der=subject_der,
        public_key=KEY,
        serial=random_serial(os.urandom),
        not_before=NOW,
        not_after=end,
        extensions=[
            extension(ski(KEY)),
            extension(x509.AuthorityKeyIdentifier(b"12345678", None, None)),
            extension(x509.KeyUsage(True, False, False, False, False, False, False, False, False), critical=True),
            *more,
        ],
        scheme=SignatureScheme.parse(scheme),
    )


@pytest.mark.parametrize(
    "scheme",
    ["rsa-sha256", "rsa-sha512", "rsa-pss-sha256", "rsa-pss-sha384", "ecdsa-sha384", "ecdsa-sha512", "ed25519", "ed448",
     "ml-dsa-44", "ml-dsa-87"],
)  # fmt: skip
def test_the_algorithm_is_the_issuers(scheme: str) -> None:
    parts = certparts.tbs_parts(_draft(scheme=scheme).tbs)
    assert parts.octets(parts.algorithm) == SignatureScheme.parse(scheme).algorithm_identifier()


def test_names_are_copied_as_octets() -> None:
    odd = bytes.fromhex("300f310d300b06035504031e0400490053")  # CN as BMPString, which no encoder of today writes
    draft = _draft(issuer_der=odd, subject_der=odd)
    parts = certparts.tbs_parts(draft.tbs)
    assert parts.octets(parts.issuer) == odd
    assert parts.octets(parts.subject) == odd
    certificate = x509.load_der_x509_certificate(draft.sample)
    assert certificate.tbs_certificate_bytes == draft.tbs
    assert certificate.serial_number == draft.serial
    assert certificate.public_key() == KEY


@pytest.mark.parametrize("end", [NOW + timedelta(days=90), datetime(2060, 1, 1, tzinfo=UTC)])
@pytest.mark.parametrize("serial", [1, 127, 128, pytest.param(random_serial(os.urandom), id="random")])
def test_it_is_what_cryptographys_builder_writes(serial: int, end: datetime) -> None:
    signer = ec.generate_private_key(ec.SECP256R1())
    extensions: list[Extension] = [
        extension(ski(KEY)),
        extension(x509.BasicConstraints(True, 2), critical=True),
        extension(x509.SubjectAlternativeName([x509.DNSName("a.example.org"), x509.RFC822Name("a@example.org")])),
        extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH])),
        raw_extension("1.3.6.1.4.1.55555.1.2", b"\x0c\x01a" * 60),
    ]
    for key in (
        KEY,
        rsa.generate_private_key(65537, 2048).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
    ):
        for some in ([], extensions):
            ours = build_draft(
                issuer_der=ISSUER.public_bytes(),
                subject=SUBJECT,
                public_key=key,
                serial=serial,
                not_before=NOW,
                not_after=end,
                extensions=some,
                scheme=SignatureScheme.parse("ecdsa-sha256"),
            )
            builder = x509.CertificateBuilder(ISSUER, SUBJECT, key, serial, NOW, end, some)
            assert ours.tbs == builder.sign(signer, hashes.SHA256()).tbs_certificate_bytes


def test_what_cannot_be_a_certificate_is_refused() -> None:
    with pytest.raises(Rejected, match="ends before it begins"):
        _draft(end=NOW - timedelta(seconds=1))
    with pytest.raises(Rejected, match="twice"):
        _draft(more=[extension(ski(KEY))])


def test_a_name_keeps_its_string_types() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Old", _ASN1Type.T61String)])
    assert b"\x14\x03Old" in _draft(issuer_der=name.public_bytes()).tbs


def test_the_end_of_time_is_generalized_time() -> None:
    tbs = _draft(end=END_OF_TIME).tbs
    assert b"\x17\x0d261121000000Z" in tbs
    assert b"\x18\x0f99991231235959Z" in tbs
    assert b"\x17\x0d491231235959Z" in _draft(end=datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)).tbs
    assert b"\x18\x0f20500101000000Z" in _draft(end=datetime(2050, 1, 1, tzinfo=UTC)).tbs


def test_serials_are_positive_of_159_bits_and_differ() -> None:
    for octets in (bytes(20), b"\xff" * 20, os.urandom(20)):
        serial = random_serial(lambda n, octets=octets: octets[:n])  # type: ignore[misc]
        assert 0 < serial < 2**159
        assert len(serial.to_bytes(20, "big")) == 20
        assert serial.to_bytes(20, "big")[0] & 0xC0 == 0x40
    assert len({random_serial(os.urandom) for _ in range(1000)}) == 1000


def test_a_key_identifier_is_rfc_7093s_and_an_issuers_is_as_it_has_it() -> None:
    bits = KEY.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    assert ski(KEY).digest == hashlib.sha256(bits).digest()[:20]  # RFC 7093 section 2 method 1
    builder = x509.CertificateBuilder(ISSUER, ISSUER, KEY, 1, NOW, NOW + timedelta(days=1))
    signer = ec.generate_private_key(ec.SECP256R1())
    without = builder.sign(signer, hashes.SHA256())
    assert issuer_key_identifier(without) == ski(KEY).digest
    odd = builder.add_extension(x509.SubjectKeyIdentifier(b"any octets"), critical=False).sign(signer, hashes.SHA256())
    assert issuer_key_identifier(odd) == b"any octets"


_SAMPLE = _draft()
_WHOLE = {
    certparts.tbs_parts: _SAMPLE.tbs,
    certparts.certificate_tbs: _SAMPLE.sample,
    certparts.subject_octets: _SAMPLE.sample,
    certparts.signature_identifier: _SAMPLE.sample,
    certparts.subject_public_key: spki_der(KEY),
}


@pytest.mark.parametrize("read", _WHOLE)
@given(st.data())
def test_parts_of_damaged_octets_are_parts_or_refused(read: Callable[[bytes], object], data: st.DataObject) -> None:
    octets = bytearray(_WHOLE[read])
    for _ in range(data.draw(st.integers(0, 3))):
        octets[data.draw(st.integers(0, min(len(octets), 200) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(octets)
    try:
        found = read(damaged)
    except der.NotDer:
        return
    part = found.octets(found.subject) if isinstance(found, certparts.TbsParts) else found
    assert isinstance(part, bytes)
    assert part in damaged


def test_the_linter_sees_what_pkilint_sees() -> None:
    linter = Linter()
    assert linter.findings(_draft().sample) == ()
    reversed_times = _draft(end=NOW + timedelta(days=1)).sample.replace(b"261122000000Z", b"201122000000Z")
    refusals, warnings = linter.check(reversed_times, LintLevel.ERROR)
    assert any("negative_validity" in reason.text for reason in refusals)
    refusals, warnings = linter.check(reversed_times, LintLevel.OFF)
    assert not refusals
    assert warnings
    assert linter.check(b"\x30\x03\x02\x01\x01", LintLevel.FATAL)[0]


def test_the_linter_agrees_with_pkilints_own_walk() -> None:
    """The same validators in the same order, whatever the certificate; only faster."""
    from pkilint import loader
    from pkilint.pkix import certificate, name
    from pkilint.pkix import extension as pkilint_extension
    from pkilint.validation import ValidationFindingSeverity

    whole = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, pkilint_extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    linter = Linter()
    for sample in (*_odd_samples(), *_odd_samples()):  # twice: what was decoded before is remembered
        expected = sorted(
            description.finding.code
            for result in whole.validate(loader.load_der_certificate(sample, "x").root)
            for description in result.finding_descriptions
            if description.finding.severity <= ValidationFindingSeverity.NOTICE
        )
        assert sorted(finding.code for finding in linter.findings(sample)) == expected


def _odd_samples() -> list[bytes]:
    signer = ec.generate_private_key(ec.SECP256R1())
    end = NOW + timedelta(days=9)
    plain = x509.CertificateBuilder(ISSUER, x509.Name([]), KEY, 5).not_valid_before(NOW).not_valid_after(end)
    samples = [plain]
    san = x509.SubjectAlternativeName(
        [x509.DNSName("under_score.example"), x509.RFC822Name("not a mailbox"), x509.UniformResourceIdentifier("::")]
    )
    samples.append(plain.add_extension(san, critical=False))
    samples.append(plain.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False))
    usage = x509.KeyUsage(False, False, True, False, False, True, True, False, False)
    samples.append(plain.add_extension(usage, critical=False).add_extension(ski(KEY), critical=True))
    samples.append(
        plain.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.32"), b"\x05\x00"), False)
    )
    return [one.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.DER) for one in samples]
