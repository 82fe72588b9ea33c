"""Opening envelopes: encrypted content keys in, content keys out, and nothing tells a wrong one from a right one."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from pkiserver.keys.algorithms import PublicKey
from pkiserver.keys.handle import KeyHandle

KEK_SIZES = (16, 24, 32)


class EnvelopeOpener:
    """Recovers content-encryption keys (RFC 5652, 6.2).

    Every failure that the sender could have caused (padding, length, integrity of the wrapping, another curve) has one
    outcome: a random key of the asked length, chosen before the token is called (RFC 3218, 2.3.2). Only a key or a
    token that is away raises.
    """

    def __init__(self, handle: KeyHandle) -> None:
        self._handle = handle

    @property
    def public_key(self) -> PublicKey:
        """The public half that envelopes are made for."""
        return self._handle.public_key

    async def rsa_pkcs1(self, encrypted_key: bytes, key_length: int) -> bytes:
        """RSAES-PKCS1-v1_5 key transport (RFC 3370, 4.2.1) to a content key of ``key_length`` octets.

        Raises:
            KeyUnavailable: the key or its token is away.
        """
        return await self._open(key_length, lambda: self._handle.decrypt_pkcs1(encrypted_key))

    async def rsa_oaep(
        self, encrypted_key: bytes, key_length: int, digest: hashes.HashAlgorithm, *, label: bytes | None = None
    ) -> bytes:
        """RSAES-OAEP key transport (RFC 3560), hash and MGF1 alike; raises as :meth:`rsa_pkcs1`."""
        return await self._open(key_length, lambda: self._handle.decrypt_oaep(encrypted_key, digest, label))

    async def ecdh(
        self,
        originator: ec.EllipticCurvePublicKey,
        wrapped_key: bytes,
        key_length: int,
        *,
        shared_info: bytes,
        kek_length: int,
        digest: hashes.HashAlgorithm,
    ) -> bytes:
        """Ephemeral-static ECDH with the X9.63 KDF and AES key wrap (RFC 5753, 3.1).

        Args:
            originator: The sender's ephemeral public key.
            wrapped_key: The content key in AES key wrap (RFC 3394).
            key_length: Octets of the content key.
            shared_info: ECC-CMS-SharedInfo DER.
            kek_length: Octets of the key-encryption key: 16, 24 or 32.
            digest: The KDF's hash.

        Raises:
            KeyUnavailable: the key or its token is away.
        """
        if kek_length not in KEK_SIZES:
            raise ValueError(f"a key-encryption key has one of {KEK_SIZES} octets")

        def open_() -> bytes:
            shared = self._handle.agree(originator)
            return aes_key_unwrap(X963KDF(digest, kek_length, shared_info).derive(shared), wrapped_key)

        return await self._open(key_length, open_)

    async def _open(self, key_length: int, open_: Callable[[], bytes]) -> bytes:
        substitute = secrets.token_bytes(key_length)

        def attempt() -> bytes:
            try:
                found = open_()
            except (ValueError, InvalidUnwrap):
                found = b""
            return found if len(found) == key_length else substitute

        return await self._handle.call(attempt)
