"""The typed doors. Each takes one structure, looks at it, has it signed, and gives back what surrounds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

from pkiserver.foundation import der
from pkiserver.keys import structures
from pkiserver.keys.algorithms import PrivateKey, PublicKey, SignatureScheme, spki
from pkiserver.keys.handle import KeyHandle
from pkiserver.keys.objects import Check, door_key

T = TypeVar("T")
LARGE = 1 << 20
"""Octets that are hashed on the reactor's thread at most: about a millisecond."""


class Signer:
    """What all doors share. A signer stays usable while its token goes and comes back."""

    def __init__(self, handle: KeyHandle, check: Check) -> None:
        self._handle = handle
        self._check = check
        self._suited: set[SignatureScheme] = set()
        self.key: PrivateKey = door_key(handle, check)
        """For cryptography's builders; signs this door's structure only. A key that is not ``in_place`` blocks its
        caller: use :meth:`build` then."""

    @property
    def public_key(self) -> PublicKey:
        """The key's public half, as registered."""
        return self._handle.public_key

    @property
    def default_scheme(self) -> SignatureScheme:
        """The scheme for this key when nothing else is asked."""
        return SignatureScheme.default_for(self._handle.public_key)

    @property
    def in_place(self) -> bool:
        """Whether the key now signs on the reactor's thread, in under 0.2 ms."""
        return self._handle.fast and self._handle.problem is None

    async def build(self, builder: Callable[[PrivateKey], T]) -> T:
        """Run ``builder(key)`` where it blocks nobody: here for a fast key, in the token's thread for a slow one.

        Raises:
            KeyUnavailable: the key or its token is away.
            WrongDoor: the builder asked for a signature over something else than this door's structure.
        """
        self._handle.require()
        if self._handle.fast:
            return builder(self.key)
        return await self._handle.call(lambda: builder(self.key))

    def _look(self, octets: bytes, scheme: SignatureScheme) -> None:
        if scheme not in self._suited:
            self._suited.add(scheme.require(self._handle.public_key))
        self._check(octets, scheme)

    async def _sign(self, octets: bytes, scheme: SignatureScheme) -> bytes:
        handle = self._handle
        self._look(octets, scheme)
        if len(octets) > LARGE:  # hashing alone would hold up the reactor
            return await handle.call(lambda: handle.sign(octets, scheme))
        signature = handle.sign_now(octets, scheme)
        return signature if signature is not None else await handle.sign_async(octets, scheme)


@lru_cache(maxsize=64)
def _certificates(certificates: tuple[bytes, ...], number: int) -> bytes:
    """``[number] EXPLICIT SEQUENCE OF Certificate``, the same ones thousands of times a second; nothing for none."""
    return der.explicit(number, der.sequence(*certificates)) if certificates else b""


def _signed(octets: bytes, scheme: SignatureScheme, signature: bytes, *more: bytes) -> bytes:
    return der.sequence(octets, scheme.identifier, der.bit_string(signature), *more)


class CertificateSigner(Signer):
    """Signs certificates (RFC 5280, 4.1)."""

    def __init__(self, handle: KeyHandle) -> None:
        super().__init__(handle, structures.tbs_certificate)

    async def sign(self, tbs_certificate: bytes, scheme: SignatureScheme) -> bytes:
        """TBSCertificate DER to Certificate DER.

        Raises:
            WrongDoor: the octets are not a TBSCertificate, or its ``signature`` field is not the scheme's.
            Rejected: BAD_ALGORITHM; the key cannot sign by this scheme.
            KeyUnavailable: the key or its token is away.
        """
        return _signed(tbs_certificate, scheme, await self._sign(tbs_certificate, scheme))


class CrlSigner(Signer):
    """Signs certificate revocation lists (RFC 5280, 5.1)."""

    def __init__(self, handle: KeyHandle) -> None:
        super().__init__(handle, structures.tbs_cert_list)

    async def sign(self, tbs_cert_list: bytes, scheme: SignatureScheme) -> bytes:
        """TBSCertList DER to CertificateList DER; raises as :meth:`CertificateSigner.sign`."""
        return _signed(tbs_cert_list, scheme, await self._sign(tbs_cert_list, scheme))


class OcspSigner(Signer):
    """Signs OCSP responses (RFC 6960). The fast path gives ``key`` to cryptography's ``OCSPResponseBuilder``."""

    def __init__(self, handle: KeyHandle) -> None:
        super().__init__(handle, structures.response_data)

    async def sign(self, response_data: bytes, scheme: SignatureScheme, certificates: Sequence[bytes] = ()) -> bytes:
        """ResponseData DER to BasicOCSPResponse DER, with the responder's certificates (DER) in it; raises as above."""
        signature = await self._sign(response_data, scheme)
        return _signed(response_data, scheme, signature, _certificates(tuple(certificates), 0))

    def sign_now(
        self, response_data: bytes, scheme: SignatureScheme, certificates: Sequence[bytes] = ()
    ) -> bytes | None:
        """As :meth:`sign` without waiting; None for a key that is slow or busy. Raises as :meth:`sign`."""
        if not self._handle.fast:
            return None
        self._look(response_data, scheme)
        signature = self._handle.sign_now(response_data, scheme)
        if signature is None:
            return None
        return _signed(response_data, scheme, signature, _certificates(tuple(certificates), 0))


class CmsSigner(Signer):
    """Signs CMS SignedAttributes (RFC 5652, 5.4) for one content type, to which it is bound."""

    def __init__(self, handle: KeyHandle, content_type: str) -> None:
        super().__init__(handle, structures.SignedAttributesCheck(content_type))
        self.content_type = content_type

    async def sign_attributes(self, signed_attributes: bytes, scheme: SignatureScheme) -> bytes:
        """The signature over SignedAttributes, given as the DER SET OF (tag 0x31); raises as above."""
        return await self._sign(signed_attributes, scheme)


class TimestampSigner(CmsSigner):
    """Signs time-stamp tokens (RFC 3161, 2.4.2): SignedAttributes of content type id-ct-TSTInfo."""

    def __init__(self, handle: KeyHandle) -> None:
        super().__init__(handle, structures.TST_INFO_OID)


class CmpSigner(Signer):
    """Protects CMP messages (RFC 9810, 5.1.3)."""

    def __init__(self, handle: KeyHandle) -> None:
        super().__init__(handle, structures.protected_part)

    async def sign(self, protected_part: bytes, scheme: SignatureScheme, extra_certs: Sequence[bytes] = ()) -> bytes:
        """ProtectedPart DER (header and body) to PKIMessage DER; raises as above."""
        signature = await self._sign(protected_part, scheme)
        header, body = structures.protected_part(protected_part, scheme)
        protection = der.tlv(der.context(0), der.bit_string(signature))
        return der.sequence(header, body, protection, _certificates(tuple(extra_certs), 1))


class CheckpointSigner(Signer):
    """Signs audit checkpoints: text that begins with ``structures.CHECKPOINT_PREFIX``."""

    def __init__(self, handle: KeyHandle) -> None:
        super().__init__(handle, structures.checkpoint)

    async def sign(self, checkpoint: bytes, scheme: SignatureScheme | None = None) -> bytes:
        """The signature over a checkpoint, by the default scheme unless told; raises as above."""
        return await self._sign(checkpoint, scheme or self.default_scheme)


class RequestSigner(Signer):
    """Signs certification requests about its own public key (RFC 2986)."""

    def __init__(self, handle: KeyHandle) -> None:
        own = spki(handle.public_key)
        super().__init__(handle, lambda octets, _scheme: structures.certification_request_info(octets, own))

    async def sign(self, request_info: bytes, scheme: SignatureScheme) -> bytes:
        """CertificationRequestInfo DER to CertificationRequest DER; raises as above."""
        return _signed(request_info, scheme, await self._sign(request_info, scheme))
