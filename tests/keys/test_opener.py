"""Opening envelopes: the content key, or a random one; never a hint which."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.opener import EnvelopeOpener

SHA1, SHA256 = hashes.SHA1(), hashes.SHA256()  # SoftHSM has OAEP with SHA-1 only
STORES = ("softhsm", "software")


@pytest.fixture(scope="module", params=STORES)
def rsa_opener(ring: KeyRing, request: pytest.FixtureRequest, on_reactor: Callable[[Any], Any]) -> EnvelopeOpener:
    name = f"rsa-{request.param}"
    on_reactor(lambda: ring.generate(name, KeyType.parse("rsa-2048"), store=request.param, doors=[Door.OPEN]))
    return ring.envelope_opener(name)


@pytest.fixture(scope="module", params=[(store, curve) for store in STORES for curve in ("ec-p256", "ec-p521")])
def ec_opener(ring: KeyRing, request: pytest.FixtureRequest, on_reactor: Callable[[Any], Any]) -> EnvelopeOpener:
    store, curve = request.param
    name = f"{curve}-{store}"
    on_reactor(lambda: ring.generate(name, KeyType.parse(curve), store=store, doors=[Door.OPEN]))
    return ring.envelope_opener(name)


async def test_rsa_key_transport(rsa_opener: EnvelopeOpener) -> None:
    public = rsa_opener.public_key
    assert isinstance(public, rsa.RSAPublicKey)
    key = os.urandom(32)
    oaep = padding.OAEP(padding.MGF1(SHA1), SHA1, None)
    assert await rsa_opener.rsa_pkcs1(public.encrypt(key, padding.PKCS1v15()), 32) == key
    assert await rsa_opener.rsa_oaep(public.encrypt(key, oaep), 32, SHA1) == key


async def test_bad_rsa_ciphertexts_give_random_keys(rsa_opener: EnvelopeOpener) -> None:
    public = rsa_opener.public_key
    assert isinstance(public, rsa.RSAPublicKey)
    key = os.urandom(32)
    good = public.encrypt(key, padding.PKCS1v15())
    bad = [b"", good[:-1], bytes(256), b"\xff" * 256, os.urandom(200), good[:-1] + bytes([good[-1] ^ 1])]
    for ciphertext in [*bad, public.encrypt(os.urandom(16), padding.PKCS1v15())]:
        for opened in (
            await rsa_opener.rsa_pkcs1(ciphertext, 32),
            await rsa_opener.rsa_oaep(ciphertext, 32, SHA1),
            await rsa_opener.rsa_oaep(ciphertext, 32, SHA256),
        ):
            assert len(opened) == 32
            assert opened != key
    assert await rsa_opener.rsa_pkcs1(good, 32) == key, "bad ciphertexts must not disturb the token"


async def test_a_key_agreement_opens_what_was_wrapped_for_the_key(ec_opener: EnvelopeOpener) -> None:
    public = ec_opener.public_key
    assert isinstance(public, ec.EllipticCurvePublicKey)
    key, info = os.urandom(16), b"shared info"
    for _ in range(3):
        ephemeral = ec.generate_private_key(public.curve)
        kek = X963KDF(SHA256, 32, info).derive(ephemeral.exchange(ec.ECDH(), public))
        wrapped = aes_key_wrap(kek, key)
        named: dict[str, Any] = {"shared_info": info, "kek_length": 32, "digest": SHA256}
        assert await ec_opener.ecdh(ephemeral.public_key(), wrapped, 16, **named) == key
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    for originator, octets in (
        (ephemeral.public_key(), wrapped[:-1] + bytes([wrapped[-1] ^ 1])),
        (other, wrapped),
        (public, b""),
    ):
        opened = await ec_opener.ecdh(originator, octets, 16, **named)
        assert len(opened) == 16
        assert opened != key
    with pytest.raises(ValueError, match="octets"):
        await ec_opener.ecdh(other, b"", 16, shared_info=b"", kek_length=20, digest=SHA256)


async def test_a_key_without_that_door_opens_nothing(ring: KeyRing) -> None:
    await ring.generate("signs-only", KeyType.parse("rsa-2048"), store="software", doors=[Door.CMS])
    with pytest.raises(Rejected) as caught:
        ring.envelope_opener("signs-only")
    assert caught.value.has(Refusal.CONFIGURATION)
