"""Envelopes that OpenSSL sealed, opened with keys in a SoftHSM token; what fails, fails as random octets."""

from __future__ import annotations

import datetime as dt
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from protocols.cms import messages, oids
from protocols.cms.algorithms import LegacyDigests
from protocols.cms.ber import header
from protocols.cms.ciphers import ContentCipher, encrypt
from protocols.cms.enveloped import seal
from protocols.cms.opening import (
    open_with_key,
    open_with_password,
    open_with_shared_key,
    parse_envelope,
)
from protocols.cms.recipients import EcRecipient, PasswordRecipient, RsaRecipient, SharedKeyRecipient
from tests.support.keys import MemoryRegistry, softhsm_token, software_store

SECRET = b"a certification request, let us say " * 40
SIGNER = ec.generate_private_key(ec.SECP256R1())
NO_SHA1 = LegacyDigests()


def certificate_for(public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ra")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(subject, subject, public_key, 1234, start, start.replace(year=2046))
    ski = x509.SubjectKeyIdentifier.from_public_key(public_key)
    return builder.add_extension(ski, critical=False).sign(SIGNER, hashes.SHA256())


@asynccontextmanager
async def ring(folder: Path, kind: str, store: str) -> AsyncIterator[tuple[KeyRing, x509.Certificate]]:
    settings = softhsm_token(folder) if store == "softhsm" else software_store(folder)
    keys = await KeyRing.open_with([settings], MemoryRegistry(), SystemClock())
    try:
        await keys.generate("ra", KeyType.parse(kind), store=settings.name, doors=[Door.OPEN])
        certificate = certificate_for(keys.public_key("ra"))
        (folder / "ra.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        yield keys, certificate
    finally:
        await keys.close()


def openssl_seal(folder: Path, *options: str, recipient: tuple[str, ...] = ()) -> bytes:
    command = ["openssl", "cms", "-encrypt", "-binary", "-outform", "DER", *options]
    last = recipient or (str(folder / "ra.crt"),)
    done = subprocess.run([*command, *last], input=SECRET, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("store", ["softhsm", "software"])
@pytest.mark.parametrize("kind", ["rsa-2048", "ec-p256", "ec-p384"])
async def test_keys_of_the_key_room_open_what_openssl_seals(tmp_path: Path, kind: str, store: str) -> None:
    async with ring(tmp_path, kind, store) as (keys, certificate):
        opener = keys.envelope_opener("ra")
        variants = [["-aes128"], ["-aes256", "-stream", "-indef"], ["-aes256", "-keyid"], ["-aes-128-gcm"]]
        agreement = ("-recip", str(tmp_path / "ra.crt"), "-keyopt", "ecdh_kdf_md:sha256")
        for options in variants:
            if kind.startswith("ec"):
                message = openssl_seal(tmp_path, *options, *agreement, recipient=("-outform", "DER"))
            else:
                message = openssl_seal(tmp_path, *options)
            assert await open_with_key(parse_envelope(message), certificate, opener) == SECRET
        old = ContentCipher.DES_EDE3_CBC if kind.startswith("ec") else ContentCipher.DES_CBC
        legacy = seal(SECRET, (recipient_of(certificate),), cipher=old)
        with pytest.raises(Rejected) as refused:
            await open_with_key(parse_envelope(legacy), certificate, opener)
        assert refused.value.has(Refusal.BAD_ALGORITHM)
        assert await open_with_key(parse_envelope(legacy), certificate, opener, allow_legacy=True) == SECRET


def recipient_of(certificate: x509.Certificate) -> RsaRecipient | EcRecipient:
    is_rsa = isinstance(certificate.public_key(), rsa.RSAPublicKey)
    return RsaRecipient(certificate) if is_rsa else EcRecipient(certificate, ukm=b"ukm")


async def test_oaep_with_sha256_and_old_key_derivation(tmp_path: Path) -> None:
    async with ring(tmp_path, "rsa-2048", "software") as (keys, certificate):
        opener = keys.envelope_opener("ra")
        message = seal(SECRET, (RsaRecipient(certificate, oaep=True),), cipher=ContentCipher.AES128_GCM)
        assert await open_with_key(parse_envelope(message), certificate, opener) == SECRET
        sha1 = openssl_seal(
            *(tmp_path, "-aes128", "-recip", str(tmp_path / "ra.crt"), "-keyopt", "rsa_padding_mode:oaep"),
            recipient=("-outform", "DER"),
        )
        with pytest.raises(Rejected):
            await open_with_key(parse_envelope(sha1), certificate, opener)
        old = LegacyDigests(sha1=True)
        assert await open_with_key(parse_envelope(sha1), certificate, opener, legacy_digests=old) == SECRET


def with_key(certificate: x509.Certificate, encrypted_key: bytes, content: bytes, cipher: ContentCipher) -> bytes:
    """An EnvelopedData around any encrypted key at all, as an attacker sends it."""
    sealed = encrypt(cipher, bytes(cipher.key_length), content)
    honest = seal(b"x", (RsaRecipient(certificate),), cipher=cipher)
    envelope = parse_envelope(honest)
    info = envelope.recipients[0]
    assert isinstance(info, messages.KeyTransRecipientInfo)
    info.encrypted_key = encrypted_key
    inner = messages.EncryptedContentInfo(
        content_type=x509.ObjectIdentifier(oids.DATA),
        content_encryption_algorithm=sealed.algorithm,
        encrypted_content=sealed.ciphertext,
    )
    body = messages.EnvelopedData(
        version=0,
        originator_info=None,
        recipient_infos=messages.set_tlv([messages.octets(info)]),
        encrypted_content_info=messages.tlv(messages.octets(inner)),
        unprotected_attrs=None,
    )
    return messages.content_info(oids.ENVELOPED_DATA, messages.octets(body))


@pytest.mark.parametrize("store", ["softhsm", "software"])
async def test_bleichenbacher_every_failure_gives_random_octets(tmp_path: Path, store: str) -> None:
    """Bad padding, a wrong length, a ciphertext of the wrong size and an honest wrong key are not told apart."""
    async with ring(tmp_path, "rsa-2048", store) as (keys, certificate):
        opener, public = keys.envelope_opener("ra"), certificate.public_key()
        assert isinstance(public, rsa.RSAPublicKey)
        pkcs1 = padding.PKCS1v15()
        hostile = {
            "not padded": pow(12345, 65537, public.public_numbers().n).to_bytes(256, "big"),
            "too short a key": public.encrypt(bytes(16), pkcs1),
            "too long a key": public.encrypt(bytes(33), pkcs1),
            "empty key": public.encrypt(b"", pkcs1),
            "wrong key": public.encrypt(b"\x01" * 32, pkcs1),
            "zero": bytes(256),
            "above the modulus": b"\xff" * 256,
            "short ciphertext": b"\x01" * 100,
            "no ciphertext": b"",
        }
        for name, encrypted_key in hostile.items():
            message = parse_envelope(with_key(certificate, encrypted_key, SECRET, ContentCipher.AES256_CBC))
            content = await open_with_key(message, certificate, opener)
            assert SECRET[:16] not in content, name
            assert content, name
        right = with_key(certificate, public.encrypt(bytes(32), pkcs1), SECRET, ContentCipher.AES256_CBC)
        assert await open_with_key(parse_envelope(right), certificate, opener) == SECRET


async def test_vaudenay_a_damaged_ciphertext_is_no_oracle(tmp_path: Path) -> None:
    async with ring(tmp_path, "rsa-2048", "software") as (keys, certificate):
        opener = keys.envelope_opener("ra")
        for cipher in (ContentCipher.AES128_CBC, ContentCipher.AES128_GCM):
            message = bytearray(seal(SECRET, (RsaRecipient(certificate),), cipher=cipher))
            message[-20] ^= 1
            assert await open_with_key(parse_envelope(bytes(message)), certificate, opener) != SECRET


async def test_an_envelope_for_somebody_else_is_refused(tmp_path: Path) -> None:
    async with ring(tmp_path, "rsa-2048", "software") as (keys, certificate):
        other = certificate_for(rsa.generate_private_key(65537, 2048).public_key())
        for message in (
            seal(SECRET, (RsaRecipient(certificate, b"another key identifier"),)),
            seal(SECRET, (PasswordRecipient(Secret("x"), iterations=1),)),
        ):
            with pytest.raises(Rejected, match="not for this certificate"):
                await open_with_key(parse_envelope(message), other, keys.envelope_opener("ra"))


def test_passwords_and_shared_keys(tmp_path: Path) -> None:
    password = Secret("challenge")
    for message in (
        seal(SECRET, (PasswordRecipient(password, iterations=1000),)),
        openssl_seal(tmp_path, "-aes128", "-pwri_password", "challenge", recipient=("-outform", "DER")),
    ):
        assert open_with_password(parse_envelope(message), password) == SECRET
        assert open_with_password(parse_envelope(message), Secret("wrong")) != SECRET
    key = Secret(bytes(range(32)))
    hexadecimal = ("-secretkey", key.reveal().hex(), "-secretkeyid", b"k1".hex())
    for message in (
        seal(SECRET, (SharedKeyRecipient(b"k1", key),)),
        openssl_seal(tmp_path, "-aes256", *hexadecimal, recipient=("-outform", "DER")),
    ):
        assert open_with_shared_key(parse_envelope(message), b"k1", key) == SECRET
        assert open_with_shared_key(parse_envelope(message), b"k1", Secret(bytes(32))) != SECRET
        with pytest.raises(Rejected):
            open_with_shared_key(parse_envelope(message), b"k2", key)
        with pytest.raises(Rejected):
            open_with_password(parse_envelope(message), password)


def test_a_password_envelope_cannot_ask_for_endless_work() -> None:
    message = seal(SECRET, (PasswordRecipient(Secret("x"), iterations=65_535),))
    hostile = message.replace(messages.octets(65_535), messages.octets(0x7FFFFF))
    assert len(hostile) == len(message)
    with pytest.raises(Rejected) as refused:
        open_with_password(parse_envelope(hostile), Secret("x"))
    assert refused.value.has(Refusal.BAD_ALGORITHM)


@pytest.mark.parametrize("cut", range(1, 30, 2))
def test_truncated_envelopes_are_refused(cut: int) -> None:
    message = seal(SECRET, (SharedKeyRecipient(b"k", Secret(bytes(16))),))
    with pytest.raises(Rejected):
        parse_envelope(message[: len(message) * cut // 30])


def test_a_gcm_cipher_in_enveloped_data_is_refused() -> None:
    """CVE-2019-1563's cousins: an unauthenticated envelope must not name an authenticated cipher, or the reverse."""
    message = seal(SECRET, (SharedKeyRecipient(b"k", Secret(bytes(16))),), cipher=ContentCipher.AES128_CBC)
    cbc, gcm = (messages.octets(x509.ObjectIdentifier(oid)) for oid in (oids.AES128_CBC, oids.AES128_GCM))
    with pytest.raises(Rejected) as refused:
        parse_envelope(message.replace(cbc, gcm))
    assert refused.value.has(Refusal.BAD_ALGORITHM)


def test_content_in_segments_of_any_size() -> None:
    """Java clients send the encrypted content as a chain of octet strings."""
    key = Secret(bytes(16))
    message = seal(SECRET, (SharedKeyRecipient(b"k", key),), cipher=ContentCipher.AES128_CBC)
    ciphertext = parse_envelope(message).sealed.ciphertext
    start = message.rindex(ciphertext)
    for step in (1, 7, 1000, 5000):
        pieces = [ciphertext[i : i + step] for i in range(0, len(ciphertext), step)]
        segments = b"\xa0\x80" + b"".join(header(b"\x04", len(one)) + one for one in pieces) + b"\x00\x00"
        outer = parse_outer(message[: start - len(header(b"\x80", len(ciphertext)))] + segments)
        assert open_with_shared_key(parse_envelope(outer), b"k", key) == SECRET


def parse_outer(broken: bytes) -> bytes:
    """``broken`` ends in the last element of its innermost sequences: make every length around it indefinite."""
    result, position = b"", 0
    for depth in range(3):
        tag, length = broken[position], broken[position + 1]
        position += 2 + (length & 0x7F if length & 0x80 else 0)
        result += bytes((tag, 0x80))
        if tag == 0x30 and depth == 0:
            size = 2 + broken[position + 1]
            result += broken[position : position + size]
            position += size
    for _ in range(2):
        size = element_size(broken, position)
        result += broken[position : position + size]
        position += size
    length = broken[position + 1]
    position += 2 + (length & 0x7F if length & 0x80 else 0)
    return result + b"\x30\x80" + broken[position:] + b"\x00\x00" * 4


def element_size(data: bytes, position: int) -> int:
    length = data[position + 1]
    if length < 0x80:
        return 2 + length
    count = length & 0x7F
    return 2 + count + int.from_bytes(data[position + 2 : position + 2 + count], "big")
