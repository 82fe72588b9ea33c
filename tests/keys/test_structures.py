"""The doors' looks at octets: hostile octets are refused and nothing else, and no octets pass two doors."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.foundation import der
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys import structures
from pkiserver.keys.algorithms import KeyType, SignatureScheme, digest_info_prefix, load_spki, spki
from pkiserver.keys.doors import Door, format_doors, parse_doors
from pkiserver.keys.faults import WrongDoor
from pkiserver.keys.secrets_by_reference import SecretUnreadable, check_reference, read_secret
from tests.keys.test_doors import attributes, certificate_builder, cmp_part

SCHEME = SignatureScheme.parse("ecdsa-sha256")
KEY = ec.generate_private_key(ec.SECP256R1())
FROM, UNTIL = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
NAME = x509.Name.from_rfc4514_string("CN=Test")
CERTIFICATE = certificate_builder(KEY.public_key()).sign(KEY, hashes.SHA256())
SEEDS = {
    "certificate": CERTIFICATE.tbs_certificate_bytes,
    "crl": x509.CertificateRevocationListBuilder()
    .issuer_name(NAME)
    .last_update(FROM)
    .next_update(UNTIL)
    .add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(5).revocation_date(FROM).build())
    .sign(KEY, hashes.SHA256())
    .tbs_certlist_bytes,
    "ocsp": ocsp.OCSPResponseBuilder()
    .add_response(CERTIFICATE, CERTIFICATE, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, FROM, UNTIL, None, None)
    .responder_id(ocsp.OCSPResponderEncoding.HASH, CERTIFICATE)
    .add_extension(x509.OCSPNonce(bytes(16)), critical=False)
    .sign(KEY, hashes.SHA256())
    .tbs_response_bytes,
    "request": x509.CertificateSigningRequestBuilder()
    .subject_name(NAME)
    .sign(KEY, hashes.SHA256())
    .tbs_certrequest_bytes,
    "cms": attributes("1.2.840.113549.1.7.1"),
    "timestamp": attributes(structures.TST_INFO_OID),
    "cmp": cmp_part("ecdsa-sha256"),
    "checkpoint": structures.CHECKPOINT_PREFIX + b"{}",
}
CHECKS: dict[str, Callable[[bytes], object]] = {
    "certificate": lambda octets: structures.tbs_certificate(octets, SCHEME),
    "crl": lambda octets: structures.tbs_cert_list(octets, SCHEME),
    "ocsp": structures.response_data,
    "request": lambda octets: structures.certification_request_info(octets, spki(KEY.public_key())),
    "cms": lambda octets: structures.signed_attributes(octets, "1.2.840.113549.1.7.1"),
    "timestamp": lambda octets: structures.signed_attributes(octets, structures.TST_INFO_OID),
    "cmp": lambda octets: structures.protected_part(octets, SCHEME),
    "checkpoint": structures.checkpoint,
}


def passes(check: Callable[[bytes], object], octets: bytes) -> bool:
    try:
        check(octets)
    except WrongDoor:
        return False
    return True


@pytest.mark.parametrize("kind", SEEDS)
def test_each_structure_passes_its_own_door_only(kind: str) -> None:
    assert [name for name, check in CHECKS.items() if passes(check, SEEDS[kind])] == [kind]


@given(st.data())
def test_no_octets_pass_two_doors_and_none_cause_anything_but_a_refusal(data: st.DataObject) -> None:
    octets = bytearray(data.draw(st.sampled_from(sorted(SEEDS.values()))))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(octets)))
        change = data.draw(st.sampled_from(["set", "insert", "cut", "delete"]))
        if change == "set" and place < len(octets):
            octets[place] = data.draw(st.integers(0, 255))
        elif change == "insert":
            octets[place:place] = data.draw(st.binary(max_size=4))
        elif change == "cut":
            del octets[place:]
        elif change == "delete":
            del octets[place : place + data.draw(st.integers(1, 8))]
    assert sum(passes(check, bytes(octets)) for check in CHECKS.values()) <= 1


@given(st.binary(max_size=300))
def test_any_octets_are_told_apart(octets: bytes) -> None:
    assert sum(passes(check, octets) for check in CHECKS.values()) <= 1


@given(st.integers(0, 255), st.binary(max_size=70_000))
def test_what_is_encoded_is_read_back(tag: int, content: bytes) -> None:
    if tag & 0x1F == 0x1F:
        return
    found = der.whole(der.tlv(tag, content), tag)
    assert der.tlv(tag, content)[found.body : found.end] == content


@given(st.integers(0, 2**200))
def test_integers_are_positive(value: int) -> None:
    encoded = der.integer(value)
    assert int.from_bytes(encoded[2:], "big", signed=True) == value


def test_names_of_keys_and_schemes() -> None:
    for name in (
        "rsa-2048",
        "rsa-3072",
        "rsa-8192",
        "ec-p256",
        "ec-p521",
        "ed25519",
        "ed448",
        "ml-dsa-44",
        "ml-dsa-87",
    ):
        assert str(KeyType.parse(name)) == name
    for name in ("rsa-1024", "rsa-8448", "rsa-2049", "ec-p192", "dsa", ""):
        with pytest.raises(Rejected) as caught:
            KeyType.parse(name)
        assert caught.value.has(Refusal.CONFIGURATION)
    with pytest.raises(Rejected, match="allowed: rsa-sha256"):
        SignatureScheme.parse("rsa-md5")
    with pytest.raises(Rejected):
        SignatureScheme.of_identifier(b"\x30\x00")
    with pytest.raises(Rejected, match="secp256k1"):
        KeyType.of(ec.generate_private_key(ec.SECP256K1()).public_key())
    with pytest.raises(Rejected):
        load_spki(b"\x30\x00")
    assert digest_info_prefix("sha256").hex() == "3031300d060960864801650304020105000420"  # RFC 8017, 9.2 note 1


def test_doors_are_written_and_read() -> None:
    assert parse_doors(" crl, certificate") == {Door.CRL, Door.CERTIFICATE}
    assert format_doors({Door.OPEN, Door.CERTIFICATE}) == "certificate,open"
    with pytest.raises(Rejected, match="everything"):
        parse_doors("everything")
    with pytest.raises(Rejected, match="at least one"):
        parse_doors("")


def test_secrets_by_reference(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("credentials")
    (folder / "pin").write_bytes(b"12 34\n")
    monkeypatch.setenv("THE_PIN", "5678")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert read_secret(f"file:{folder}/pin").reveal() == b"12 34"
    assert read_secret("env:THE_PIN").reveal() == b"5678"
    assert read_secret("credential:pin").reveal() == b"12 34"
    (folder / "pin").write_bytes(b"\n")
    for wrong in (f"file:{folder}/pin", "env:NOT_THERE", "credential:none"):
        with pytest.raises(SecretUnreadable):
            read_secret(wrong)
    for wrong in ("1234", "file:relative", "file:", "credential:../x", "credential:..", "env:A B", "http://x"):
        with pytest.raises(ValueError, match="must be one of"):
            check_reference(wrong)
