"""SignedData both ways with OpenSSL: what we sign it verifies, what it signs (BER too) we verify; forgeries fail."""

from __future__ import annotations

import datetime as dt
import functools
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.x509.oid import NameOID

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import SignatureScheme
from protocols.cms import messages, oids
from protocols.cms.algorithms import LegacyDigests
from protocols.cms.ber import children, header, only_child
from protocols.cms.signing import (
    SignedContent,
    SignerProfile,
    algorithm_protection,
    attribute,
    prepare,
    sign,
    signing_time,
)
from protocols.cms.verification import parse_signed, verify

RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
NULL = b"\x05\x00"
RSA_SHA256 = SignatureScheme.parse("rsa-sha256")
ECDSA_SHA256 = SignatureScheme.parse("ecdsa-sha256")


@functools.cache
def self_signed(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 99, start, start.replace(year=2046))
    ski = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(ski, critical=False).sign(key, hashes.SHA256())


class Door:
    """Stands where the key room's CMS door stands."""

    def __init__(self, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> None:
        self.key = key
        self.seen: list[bytes] = []

    async def sign_attributes(self, signed_attrs: bytes, scheme: SignatureScheme) -> bytes:
        assert scheme.suits(self.key.public_key())
        self.seen.append(signed_attrs)
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(signed_attrs, padding.PKCS1v15(), hashes.SHA256())
        return self.key.sign(signed_attrs, ec.ECDSA(hashes.SHA256()))


def openssl(*arguments: str, data: bytes = b"", ok: bool = True) -> bytes:
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=False)
    assert (done.returncode == 0) is ok, done.stderr.decode()
    return done.stdout


def pem_files(folder: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> tuple[str, str]:
    (folder / "s.crt").write_bytes(self_signed(key).public_bytes(serialization.Encoding.PEM))
    (folder / "s.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "s.crt"), str(folder / "s.key")


@pytest.mark.parametrize("by_identifier", [False, True])
@pytest.mark.parametrize(
    ("key", "scheme", "plain"),
    [(RSA, RSA_SHA256, False), (RSA, RSA_SHA256, True), (P256, ECDSA_SHA256, False)],
    ids=["rsa", "plain", "ec"],
)
async def test_openssl_verifies_what_we_sign(
    tmp_path: Path,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    scheme: SignatureScheme,
    plain: bool,
    by_identifier: bool,
) -> None:
    certificate = self_signed(key)
    ski = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    profile = SignerProfile(certificate, scheme, plain, ski if by_identifier else None)
    door = Door(key)
    moment = dt.datetime(2026, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
    ders = (certificate.public_bytes(serialization.Encoding.DER),)
    message = await sign(
        SignedContent(oids.DATA, b"hello"),
        profile,
        door,
        attributes=(signing_time(moment), algorithm_protection(profile)),
        certificates=ders,
    )
    crt, _ = pem_files(tmp_path, key)
    arguments = ("cms", "-verify", "-binary", "-inform", "DER", "-CAfile", crt, "-purpose", "any")
    assert openssl(*arguments, data=message) == b"hello"
    parsed = parse_signed(message)
    assert parsed.only_signer().is_signed_by(certificate)
    verify(parsed, parsed.only_signer(), certificate.public_key())
    elements = [item.whole for item in children(only_child(door.seen[0]).content)]
    assert elements == sorted(elements)
    assert only_child(parsed.only_signer().signed.single(oids.SIGNING_TIME) or b"").content == b"260506070809Z"


@pytest.mark.parametrize(
    "options", [[], ["-noattr"], ["-stream", "-indef"], ["-keyid"], ["-nodetach", "-md", "sha512"]]
)
@pytest.mark.parametrize("key", [RSA, P256], ids=["rsa", "ec"])
def test_we_verify_what_openssl_signs(
    tmp_path: Path, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, options: list[str]
) -> None:
    crt, private = pem_files(tmp_path, key)
    where = ("-signer", crt, "-inkey", private, "-outform", "DER")
    message = openssl("cms", "-sign", "-binary", "-nodetach", *where, *options, data=b"x" * 40_000)
    parsed = parse_signed(message)
    assert parsed.content == b"x" * 40_000
    verify(parsed, parsed.only_signer(), key.public_key())
    other = rsa.generate_private_key(65537, 2048) if key is RSA else ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(Rejected) as refused:
        verify(parsed, parsed.only_signer(), other.public_key())
    assert refused.value.has(Refusal.BAD_PROOF)


def test_pss_and_detached_and_old_digests(tmp_path: Path) -> None:
    crt, private = pem_files(tmp_path, RSA)
    where = ("-signer", crt, "-inkey", private, "-outform", "DER")
    pss = openssl("cms", "-sign", "-binary", "-nodetach", *where, "-keyopt", "rsa_padding_mode:pss", data=b"x")
    parsed = parse_signed(pss)
    verify(parsed, parsed.only_signer(), RSA.public_key())
    detached = parse_signed(openssl("cms", "-sign", "-binary", *where, data=b"beside"))
    assert detached.content is None
    verify(detached, detached.only_signer(), RSA.public_key(), detached=b"beside")
    for wrong in (None, b"besides"):
        with pytest.raises(Rejected):
            verify(detached, detached.only_signer(), RSA.public_key(), detached=wrong)
    for digest, legacy in (("md5", LegacyDigests(md5=True)), ("sha1", LegacyDigests(sha1=True))):
        old = parse_signed(openssl("cms", "-sign", "-binary", "-nodetach", *where, "-md", digest, data=b"x"))
        verify(old, old.only_signer(), RSA.public_key(), legacy=legacy)
        with pytest.raises(Rejected) as refused:
            verify(old, old.only_signer(), RSA.public_key())
        assert refused.value.has(Refusal.BAD_ALGORITHM)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "ed25519"),
        (ed448.Ed448PrivateKey.generate(), "ed448"),
        (mldsa.MLDSA65PrivateKey.generate(), "ml-dsa-65"),
    ],
    ids=["ed25519", "ed448", "ml-dsa-65"],
)
def test_edwards_and_ml_dsa_signatures(key: ed25519.Ed25519PrivateKey, algorithm: str) -> None:
    profile = SignerProfile(self_signed(P256), SignatureScheme.parse(algorithm))
    unsigned = prepare(SignedContent(oids.TST_INFO, b"0\x00"), profile)
    parsed = parse_signed(unsigned.finish(key.sign(unsigned.signed_attrs)))
    verify(parsed, parsed.only_signer(), key.public_key())
    with pytest.raises(Rejected):
        verify(parsed, parsed.only_signer(), P256.public_key())


def test_unsorted_signed_attributes_verify_as_sent_and_as_sorted() -> None:
    profile = SignerProfile(self_signed(P256), ECDSA_SHA256)
    unsigned = prepare(SignedContent(oids.DATA, b"x"), profile, attributes=(attribute("1.2.3", NULL),))
    items = [item.whole for item in children(only_child(unsigned.signed_attrs).content)]
    reverse = b"".join(reversed(items))
    for covered in (unsigned.signed_attrs, header(b"\x31", len(reverse)) + reverse):
        message = unsigned.finish(P256.sign(covered, ec.ECDSA(hashes.SHA256())))
        message = message.replace(b"".join(items), reverse)
        parsed = parse_signed(message)
        verify(parsed, parsed.only_signer(), P256.public_key())


def test_content_type_and_digest_must_fit() -> None:
    profile = SignerProfile(self_signed(P256), ECDSA_SHA256)
    unsigned = prepare(SignedContent(oids.DATA, b"pay 1 euro"), profile)
    message = unsigned.finish(P256.sign(unsigned.signed_attrs, ec.ECDSA(hashes.SHA256())))
    tampered = parse_signed(message.replace(b"pay 1 euro", b"pay 9 euro"))
    with pytest.raises(Rejected, match="digest"):
        verify(tampered, tampered.only_signer(), P256.public_key())
    data_oid = messages.octets(messages.ObjectIdentifier(oids.DATA))
    outer = message.rindex(data_oid, 0, message.index(b"pay 1"))
    other = parse_signed(message[:outer] + data_oid[:-1] + b"\x05" + message[outer + len(data_oid) :])
    with pytest.raises(Rejected, match="content type"):
        verify(other, other.only_signer(), P256.public_key())


def test_no_attributes_only_for_plain_data_and_duplicate_attributes_are_refused() -> None:
    profile = SignerProfile(self_signed(P256), ECDSA_SHA256)
    twice = prepare(SignedContent(oids.DATA, b"x"), profile, attributes=(attribute(oids.CONTENT_TYPE, NULL),))
    parsed = parse_signed(twice.finish(P256.sign(twice.signed_attrs, ec.ECDSA(hashes.SHA256()))))
    with pytest.raises(Rejected, match="more than once"):
        verify(parsed, parsed.only_signer(), P256.public_key())


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_truncated_messages_are_refused(cut: int) -> None:
    profile = SignerProfile(self_signed(P256), ECDSA_SHA256)
    unsigned = prepare(SignedContent(oids.DATA, b"x"), profile)
    message = unsigned.finish(b"signature")
    with pytest.raises(Rejected):
        parse_signed(message[: len(message) * cut // 40])


def test_ed448_digests_with_shake256_of_512_bits() -> None:
    key = ed448.Ed448PrivateKey.generate()
    unsigned = prepare(SignedContent(oids.DATA, b"x"), SignerProfile(self_signed(P256), SignatureScheme.parse("ed448")))
    message = unsigned.finish(key.sign(unsigned.signed_attrs))
    assert parse_signed(message).only_signer().digest == oids.SHAKE256_LEN
    with pytest.raises(Rejected) as refused:
        parse_signed(message.replace(b"\x02\x02\x02\x00", b"\x02\x02\x01\x00"))
    assert refused.value.has(Refusal.BAD_ALGORITHM)


def test_a_changed_algorithm_is_noticed_where_it_is_protected() -> None:
    """RFC 6211: the digest named in the message must be the one that was signed."""
    profile = SignerProfile(self_signed(P256), ECDSA_SHA256)
    other = SignerProfile(self_signed(P256), SignatureScheme.parse("ecdsa-sha384"))
    unsigned = prepare(SignedContent(oids.DATA, b"x"), profile, attributes=(algorithm_protection(other),))
    parsed = parse_signed(unsigned.finish(P256.sign(unsigned.signed_attrs, ec.ECDSA(hashes.SHA256()))))
    with pytest.raises(Rejected, match="signed algorithms"):
        verify(parsed, parsed.only_signer(), P256.public_key())


def test_more_signers_than_anybody_needs_are_refused() -> None:
    unsigned = prepare(SignedContent(oids.DATA, b"x"), SignerProfile(self_signed(P256), ECDSA_SHA256))
    message = messages.decode(messages.ContentInfo, unsigned.finish(b"s"), "ContentInfo")
    signed = messages.decode(messages.SignedData, messages.octets(message.content), "SignedData")
    one = bytes(signed.signer_infos.data)
    for count, fits in ((16, True), (17, False)):
        signed.signer_infos = messages.tlv(header(b"\x31", len(one) * count) + one * count)
        many = messages.content_info(oids.SIGNED_DATA, messages.octets(signed))
        if fits:
            assert len(parse_signed(many).signers) == 16
            continue
        with pytest.raises(Rejected) as refused:
            parse_signed(many)
        assert refused.value.has(Refusal.LIMIT)
