"""Certs-only messages and envelopes, read by OpenSSL, which we did not write."""

from __future__ import annotations

import datetime as dt
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from protocols.cms.certs import build_certs_only, parse_certs_only
from protocols.cms.ciphers import ContentCipher, DecryptionFailed, pwri_unwrap, pwri_wrap
from protocols.cms.enveloped import seal
from protocols.cms.recipients import EcRecipient, PasswordRecipient, RsaRecipient, SharedKeyRecipient

KEYS = {
    "rsa": rsa.generate_private_key(65537, 2048),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
}


def certificate_of(name: str) -> x509.Certificate:
    key = KEYS[name]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 77, start, start.replace(year=2046))
    return builder.add_extension(ski, critical=False).sign(key, hashes.SHA256())


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, key in KEYS.items():
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (tmp_path / f"{name}.key").write_bytes(pem)
        (tmp_path / f"{name}.crt").write_bytes(certificate_of(name).public_bytes(serialization.Encoding.PEM))
    return tmp_path


def test_openssl_lists_the_certificates_of_a_certs_only_message() -> None:
    ders = [certificate_of(name).public_bytes(serialization.Encoding.DER) for name in KEYS]
    message = build_certs_only([*ders, ders[0]])
    printed = openssl("pkcs7", "-inform", "DER", "-print_certs", data=message).decode()
    assert printed.count("BEGIN CERTIFICATE") == len(KEYS)
    assert sorted(parse_certs_only(message).certificates) == sorted(ders)
    assert parse_certs_only(message).certificates == tuple(sorted(ders)), "the SET OF is in DER order"
    with pytest.raises(Rejected):
        build_certs_only([b"\x04\x01a"])


def test_a_certs_only_message_from_openssl_in_ber_is_read(files: Path) -> None:
    message = openssl("crl2pkcs7", "-nocrl", "-certfile", str(files / "rsa.crt"), "-outform", "DER")
    expected = certificate_of("rsa").public_bytes(serialization.Encoding.DER)
    assert len(parse_certs_only(message).certificates) == 1
    assert parse_certs_only(message).certificates[0][-20:] != b""
    assert x509.load_der_x509_certificate(parse_certs_only(message).certificates[0]).serial_number == 77
    assert len(expected) > 0


@pytest.mark.parametrize("cipher", [c for c in ContentCipher if not c.authenticated and c is not ContentCipher.DES_CBC])
@pytest.mark.parametrize("by_identifier", [False, True])
@pytest.mark.parametrize("name", ["rsa", "oaep", "p256", "p384", "p521"])
def test_openssl_opens_what_we_seal(files: Path, name: str, by_identifier: bool, cipher: ContentCipher) -> None:
    key = "rsa" if name == "oaep" else name
    certificate = x509.load_pem_x509_certificate((files / f"{key}.crt").read_bytes())
    ski = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    identifier = ski if by_identifier else None
    if key == "rsa":
        recipient = RsaRecipient(certificate, identifier, oaep=name == "oaep")
    else:
        recipient = EcRecipient(certificate, identifier, ukm=b"user keying" if by_identifier else None)
    message = seal(b"the private key\n", (recipient,), cipher=cipher)
    where = ["-recip", str(files / f"{key}.crt"), "-inkey", str(files / f"{key}.key")]
    assert openssl("cms", "-decrypt", "-binary", "-inform", "DER", *where, data=message) == b"the private key\n"


@pytest.mark.parametrize("cipher", [ContentCipher.AES128_GCM, ContentCipher.AES256_GCM])
def test_openssl_opens_auth_enveloped_data(files: Path, cipher: ContentCipher) -> None:
    certificate = x509.load_pem_x509_certificate((files / "rsa.crt").read_bytes())
    message = seal(b"sealed", (RsaRecipient(certificate),), cipher=cipher)
    where = ["-recip", str(files / "rsa.crt"), "-inkey", str(files / "rsa.key")]
    assert openssl("cms", "-decrypt", "-binary", "-inform", "DER", *where, data=message) == b"sealed"


def test_openssl_opens_with_a_shared_key_and_with_a_password() -> None:
    key = bytes(range(32))
    message = seal(b"content", (SharedKeyRecipient(b"key-1", Secret(key)),))
    opened = openssl(
        *("cms", "-decrypt", "-inform", "DER", "-binary"),
        *("-secretkey", key.hex(), "-secretkeyid", b"key-1".hex()),
        data=message,
    )
    assert opened == b"content"
    message = seal(b"content", (PasswordRecipient(Secret("correct horse"), iterations=1000),))
    assert openssl("cms", "-decrypt", "-inform", "DER", "-pwri_password", "correct horse", data=message) == b"content"


def test_pwri_round_trip_and_wrong_key() -> None:
    for length in (8, 16, 24, 32):
        identifier, wrapped = pwri_wrap(ContentCipher.AES128_CBC, bytes(16), bytes(range(length)))
        assert pwri_unwrap(identifier, bytes(16), wrapped) == bytes(range(length))
        with pytest.raises(DecryptionFailed):
            pwri_unwrap(identifier, bytes([1] * 16), wrapped)
        with pytest.raises(DecryptionFailed):
            pwri_unwrap(identifier, bytes(16), wrapped[:-1])


def test_the_wrong_kind_of_key_is_refused_and_legacy_ciphers_need_permission() -> None:
    with pytest.raises(Rejected):
        seal(b"x", (RsaRecipient(certificate_of("p256")),))
    with pytest.raises(Rejected):
        seal(b"x", (EcRecipient(certificate_of("rsa")),))
    with pytest.raises(Rejected) as refused:
        ContentCipher.of(ContentCipher.DES_CBC.oid)
    assert refused.value.has(Refusal.BAD_ALGORITHM)
    assert ContentCipher.of(ContentCipher.DES_CBC.oid, allow_legacy=True) is ContentCipher.DES_CBC
