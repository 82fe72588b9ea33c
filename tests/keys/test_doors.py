"""Every kind of key, in a token and in a file, through cryptography's builders and through the typed doors."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from pkiserver.foundation import der
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import KeyType, SignatureScheme, spki
from pkiserver.keys.doors import Door
from pkiserver.keys.faults import WrongDoor
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.signers import Signer
from pkiserver.keys.software import generate_private_key

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")])
FROM = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
UNTIL = dt.datetime(2036, 1, 1, tzinfo=dt.UTC)
TOKEN_TYPES = ["rsa-2048", "rsa-3072", "ec-p256", "ec-p384", "ec-p521", "ed25519", "ed448"]
FILE_TYPES = [*TOKEN_TYPES, "ml-dsa-44", "ml-dsa-65", "ml-dsa-87"]
EVERY = [("softhsm", kind) for kind in TOKEN_TYPES] + [("software", kind) for kind in FILE_TYPES]
CASES = pytest.mark.parametrize(("store", "kind"), EVERY)


def schemes(key_type: KeyType) -> list[SignatureScheme]:
    names = [
        *(f"{prefix}-{digest}" for prefix in ("rsa", "rsa-pss", "ecdsa") for digest in ("sha256", "sha384", "sha512")),
        "ed25519", "ed448", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87",
    ]  # fmt: skip
    public = generate_private_key(key_type).public_key()
    return [scheme for scheme in map(SignatureScheme.parse, names) if scheme.suits(public)]


async def key_for(ring: KeyRing, store: str, kind: str) -> str:
    name = f"{store}-{kind}"
    if name not in {info.name for info in ring.list()}:
        await ring.generate(name, KeyType.parse(kind), store=store, doors=list(Door))
    return name


def certificate_builder(public_key: Any) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(public_key)
        .serial_number(1 << 150)
        .not_valid_before(FROM)
        .not_valid_after(UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )


def options(scheme: SignatureScheme) -> dict[str, Any]:
    named: dict[str, Any] = {"algorithm": scheme.hash_algorithm}
    if isinstance(scheme.rsa_padding, padding.PSS):
        named["rsa_padding"] = scheme.rsa_padding
    return named


@CASES
async def test_builders_and_doors_make_the_same_structures(ring: KeyRing, store: str, kind: str) -> None:
    name = await key_for(ring, store, kind)
    info = ring.show(name)
    assert info.ready
    assert str(info.key_type) == kind
    signer = ring.certificate_signer(name)
    for scheme in schemes(info.key_type):
        built = await signer.build(lambda key, s=scheme: certificate_builder(signer.public_key).sign(key, **options(s)))
        built.verify_directly_issued_by(built)
        again = x509.load_der_x509_certificate(await signer.sign(built.tbs_certificate_bytes, scheme))
        again.verify_directly_issued_by(again)
        assert again.tbs_certificate_bytes == built.tbs_certificate_bytes
        assert scheme.verify(signer.public_key, again.signature, again.tbs_certificate_bytes)
        assert SignatureScheme.of_identifier(scheme.algorithm_identifier()) == scheme


@CASES
async def test_crls_requests_and_ocsp_responses(ring: KeyRing, store: str, kind: str) -> None:
    name = await key_for(ring, store, kind)
    scheme = SignatureScheme.default_for(ring.public_key(name))
    crl_signer, requester, responder = ring.crl_signer(name), ring.request_signer(name), ring.ocsp_signer(name)
    builder = x509.CertificateRevocationListBuilder().issuer_name(NAME).last_update(FROM).next_update(UNTIL)
    crl = await crl_signer.build(lambda key: builder.sign(key, **options(scheme)))
    again = x509.load_der_x509_crl(await crl_signer.sign(crl.tbs_certlist_bytes, scheme))
    assert again.is_signature_valid(crl_signer.public_key)  # type: ignore[arg-type]

    csr = await requester.build(
        lambda key: x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, **options(scheme))
    )
    assert csr.is_signature_valid
    assert x509.load_der_x509_csr(await requester.sign(csr.tbs_certrequest_bytes, scheme)).is_signature_valid

    own = await ring.certificate_signer(name).build(
        lambda key: certificate_builder(crl_signer.public_key).sign(key, **options(scheme))
    )
    response = await responder.build(
        lambda key: (
            ocsp.OCSPResponseBuilder()
            .add_response(own, own, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, FROM, UNTIL, None, None)
            .responder_id(ocsp.OCSPResponderEncoding.HASH, own)
            .sign(key, scheme.hash_algorithm)
        )
    )
    assert scheme.verify(responder.public_key, response.signature, response.tbs_response_bytes)
    basic = await responder.sign(response.tbs_response_bytes, scheme, [own.public_bytes(serialization.Encoding.DER)])
    wrapped = der.sequence(
        der.tlv(der.ENUMERATED, b"\x00"),
        der.tlv(
            der.context(0),
            der.sequence(der.object_identifier("1.3.6.1.5.5.7.48.1.1"), der.tlv(der.OCTET_STRING, basic)),
        ),
    )
    parsed = ocsp.load_der_ocsp_response(wrapped)
    assert parsed.certificates == [own]
    assert scheme.verify(responder.public_key, parsed.signature, parsed.tbs_response_bytes)


def openssl_verifies(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    command = ["openssl", "verify", "-CAfile", str(path), "-check_ss_sig", "-attime", "1780000000", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_openssl_verifies_what_the_token_signed(ring: KeyRing, tmp_path: Path) -> None:
    for kind, scheme_name in (("rsa-2048", "rsa-pss-sha384"), ("ec-p384", "ecdsa-sha256"), ("ed25519", "ed25519")):
        signer = ring.certificate_signer(await key_for(ring, "softhsm", kind))
        scheme = SignatureScheme.parse(scheme_name)
        builder = certificate_builder(signer.public_key)
        built = await signer.build(lambda key, b=builder, s=scheme: b.sign(key, **options(s)))
        openssl_verifies(tmp_path / "ca.pem", built)


@pytest.fixture(scope="module")
def p256(ring: KeyRing, on_reactor: Callable[[Any], Any]) -> str:
    name: str = on_reactor(lambda: key_for(ring, "softhsm", "ec-p256"))
    return name


async def octets_of_every_door(ring: KeyRing, name: str) -> dict[str, bytes]:
    certificate = await ring.certificate_signer(name).build(
        lambda key: certificate_builder(ring.public_key(name)).sign(key, hashes.SHA256())
    )
    crl = await ring.crl_signer(name).build(
        lambda key: (
            x509.CertificateRevocationListBuilder()
            .issuer_name(NAME)
            .last_update(FROM)
            .next_update(UNTIL)
            .add_extension(x509.CRLNumber(1), critical=False)
            .sign(key, hashes.SHA256())
        )
    )
    csr = await ring.request_signer(name).build(
        lambda key: x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, hashes.SHA256())
    )
    response = await ring.ocsp_signer(name).build(
        lambda key: (
            ocsp.OCSPResponseBuilder()
            .add_response(certificate, certificate, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, FROM, UNTIL, None, None)
            .responder_id(ocsp.OCSPResponderEncoding.NAME, certificate)
            .sign(key, hashes.SHA256())
        )
    )
    return {
        "certificate": certificate.tbs_certificate_bytes,
        "crl": crl.tbs_certlist_bytes,
        "request": csr.tbs_certrequest_bytes,
        "ocsp": response.tbs_response_bytes,
        "timestamp": attributes("1.2.840.113549.1.9.16.1.4"),
        "cms": attributes("1.2.840.113549.1.7.1"),
        "cmp": cmp_part("ecdsa-sha256"),
        "checkpoint": b"pkiserver audit checkpoint 1\n{}",
    }


def attributes(content_type: str, *, digests: int = 1) -> bytes:
    def attribute(oid: str, value: bytes) -> bytes:
        return der.sequence(der.object_identifier(oid), der.tlv(der.SET, value))

    digest = attribute("1.2.840.113549.1.9.4", der.tlv(der.OCTET_STRING, bytes(32)))
    parts = [attribute("1.2.840.113549.1.9.3", der.object_identifier(content_type)), *[digest] * digests]
    return der.tlv(der.SET, *sorted(parts))


def cmp_part(scheme: str) -> bytes:
    name = der.tlv(der.context(4), NAME.public_bytes())
    algorithm = der.tlv(der.context(1), SignatureScheme.parse(scheme).algorithm_identifier())
    header = der.sequence(der.integer(2), name, name, algorithm)
    return der.sequence(header, der.tlv(der.context(24), der.sequence()))


def doors(ring: KeyRing, name: str) -> dict[str, Callable[[bytes], Any]]:
    scheme = SignatureScheme.parse("ecdsa-sha256")
    return {
        "certificate": lambda octets: ring.certificate_signer(name).sign(octets, scheme),
        "crl": lambda octets: ring.crl_signer(name).sign(octets, scheme),
        "request": lambda octets: ring.request_signer(name).sign(octets, scheme),
        "ocsp": lambda octets: ring.ocsp_signer(name).sign(octets, scheme),
        "timestamp": lambda octets: ring.timestamp_signer(name).sign_attributes(octets, scheme),
        "cms": lambda octets: ring.cms_signer(name, "1.2.840.113549.1.7.1").sign_attributes(octets, scheme),
        "cmp": lambda octets: ring.cmp_signer(name).sign(octets, scheme),
        "checkpoint": lambda octets: ring.checkpoint_signer(name).sign(octets, scheme),
    }


async def test_each_door_signs_its_own_structure_and_no_other(ring: KeyRing, p256: str) -> None:
    things = await octets_of_every_door(ring, p256)
    for door, sign in doors(ring, p256).items():
        for kind, octets in things.items():
            if kind == door:
                assert await sign(octets)
                continue
            with pytest.raises(WrongDoor):
                await sign(octets)


async def test_damaged_structures_are_refused(ring: KeyRing, p256: str) -> None:
    things = await octets_of_every_door(ring, p256)
    for door, sign in doors(ring, p256).items():
        octets = things[door]
        damaged = [b"", octets[:1], octets[1:], octets[:-1], bytes(32), b"\x30\x80\x00\x00", b"\x3f" + octets[1:]]
        if door != "checkpoint":
            damaged.append(octets + b"\x00")
        for wrong in damaged:
            if door == "checkpoint" and wrong == octets[:-1]:
                continue
            with pytest.raises(WrongDoor):
                await sign(wrong)


async def test_the_inner_algorithm_must_be_the_one_that_signs(ring: KeyRing, p256: str) -> None:
    things = await octets_of_every_door(ring, p256)
    other = SignatureScheme.parse("ecdsa-sha384")
    with pytest.raises(WrongDoor, match="AlgorithmIdentifier"):
        await ring.certificate_signer(p256).sign(things["certificate"], other)
    with pytest.raises(WrongDoor, match="AlgorithmIdentifier"):
        await ring.crl_signer(p256).sign(things["crl"], other)
    with pytest.raises(WrongDoor, match="protectionAlg"):
        await ring.cmp_signer(p256).sign(things["cmp"], other)
    with pytest.raises(Rejected) as caught:
        await ring.certificate_signer(p256).sign(things["certificate"], SignatureScheme.parse("rsa-sha256"))
    assert caught.value.has(Refusal.BAD_ALGORITHM)


async def test_a_request_about_another_key_is_not_signed(ring: KeyRing, p256: str) -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    info = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(stranger, hashes.SHA256())
    with pytest.raises(WrongDoor, match="another public key"):
        await ring.request_signer(p256).sign(info.tbs_certrequest_bytes, SignatureScheme.parse("ecdsa-sha256"))
    assert spki(stranger.public_key()) != spki(ring.public_key(p256))


async def test_content_types_are_bound(ring: KeyRing, p256: str) -> None:
    scheme = SignatureScheme.parse("ecdsa-sha256")
    signer = ring.cms_signer(p256, "1.2.840.113549.1.7.1")
    with pytest.raises(WrongDoor, match="content type"):
        await signer.sign_attributes(attributes("1.2.840.113549.1.7.2"), scheme)
    with pytest.raises(WrongDoor, match="digest"):
        await signer.sign_attributes(attributes("1.2.840.113549.1.7.1", digests=0), scheme)
    with pytest.raises(WrongDoor, match="digest"):
        await signer.sign_attributes(attributes("1.2.840.113549.1.7.1", digests=2), scheme)
    with pytest.raises(Rejected, match="own door"):
        ring.cms_signer(p256, "1.2.840.113549.1.9.16.1.4")


async def test_a_key_works_through_the_doors_it_was_born_with_only(ring: KeyRing) -> None:
    name = "crl-only"
    await ring.generate(name, KeyType.parse("ec-p256"), store="software", doors=[Door.CRL])
    assert ring.crl_signer(name)
    assert ring.request_signer(name)
    shut: list[Callable[[], Signer]] = [
        lambda: ring.certificate_signer(name),
        lambda: ring.ocsp_signer(name),
        lambda: ring.timestamp_signer(name),
        lambda: ring.cms_signer(name, "1.2.840.113549.1.7.1"),
        lambda: ring.cmp_signer(name),
        lambda: ring.checkpoint_signer(name),
        lambda: ring.envelope_opener(name),  # type: ignore[list-item,return-value]
    ]
    for door in shut:
        with pytest.raises(Rejected) as caught:
            door()
        assert caught.value.has(Refusal.CONFIGURATION)
        assert "bound to crl" in str(caught.value)


async def test_key_objects_sign_no_digest_and_give_out_nothing(ring: KeyRing, p256: str) -> None:
    key = ring.certificate_signer(p256).key
    rsa_key = ring.certificate_signer(await key_for(ring, "softhsm", "rsa-2048")).key
    with pytest.raises(UnsupportedAlgorithm, match="digest"):
        key.sign(bytes(32), ec.ECDSA(utils.Prehashed(hashes.SHA256())))  # type: ignore[call-arg, arg-type]
    with pytest.raises(WrongDoor):
        key.sign(b"anything else", ec.ECDSA(hashes.SHA256()))  # type: ignore[call-arg, arg-type]
    odd_salt = padding.PSS(padding.MGF1(hashes.SHA256()), 20)
    with pytest.raises(UnsupportedAlgorithm, match="PSS"):
        rsa_key.sign(b"", odd_salt, hashes.SHA256())  # type: ignore[call-arg, arg-type]
    for thing in (key, rsa_key):
        with pytest.raises(UnsupportedAlgorithm, match="does not leave"):
            thing.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        assert "key" in repr(thing).lower()
