"""How each signature scheme is asked of a token, and how its answer becomes the signature that X.509 has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import MGF, Mechanism

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import HASHES, KeyType, Padding, SignatureScheme, digest_info_prefix

Signer = Callable[[Any, bytes], bytes]
"""Signs data with a private-key object of python-pkcs11."""
_MECHANISMS = {"sha256": Mechanism.SHA256, "sha384": Mechanism.SHA384, "sha512": Mechanism.SHA512}
_MASKS = {"sha256": MGF.SHA256, "sha384": MGF.SHA384, "sha512": MGF.SHA512}
_WHOLE_RSA = {
    "sha256": Mechanism.SHA256_RSA_PKCS, "sha384": Mechanism.SHA384_RSA_PKCS, "sha512": Mechanism.SHA512_RSA_PKCS,
}  # fmt: skip
_WHOLE_PSS = {
    "sha256": Mechanism.SHA256_RSA_PKCS_PSS, "sha384": Mechanism.SHA384_RSA_PKCS_PSS,
    "sha512": Mechanism.SHA512_RSA_PKCS_PSS,
}  # fmt: skip


@cache
def signer_for(scheme: SignatureScheme, key_type: KeyType, offered: frozenset[int]) -> Signer:
    """The way to sign by ``scheme`` with the mechanisms that a token offers.

    The digest is made here where the token can sign one: a large CRL then costs the token no more than a small one.

    Raises:
        Rejected: UNSUPPORTED; the token has no mechanism for it.
    """
    name = scheme.hash_name
    if name is None:
        _need(Mechanism.EDDSA, scheme, offered)
        return lambda key, data: bytes(key.sign(data, mechanism=Mechanism.EDDSA))
    if scheme.padding is Padding.ECDSA:
        _need(Mechanism.ECDSA, scheme, offered)
        return _ecdsa(name, key_type.size)
    if scheme.padding is Padding.PSS:
        parameters = (_MECHANISMS[name], _MASKS[name], HASHES[name].digest_size)
        if Mechanism.RSA_PKCS_PSS in offered:
            return _digest_pss(name, parameters)
        _need(_WHOLE_PSS[name], scheme, offered)
        return lambda key, data: bytes(key.sign(data, mechanism=_WHOLE_PSS[name], mechanism_param=parameters))
    if Mechanism.RSA_PKCS in offered:
        return _digest_pkcs1(name)
    _need(_WHOLE_RSA[name], scheme, offered)
    return lambda key, data: bytes(key.sign(data, mechanism=_WHOLE_RSA[name]))


def _need(mechanism: Mechanism, scheme: SignatureScheme, offered: frozenset[int]) -> None:
    if mechanism not in offered:
        raise Rejected.because(
            Refusal.UNSUPPORTED, f"the token cannot sign by {scheme.name}: it lacks {mechanism.name}"
        )


def _ecdsa(name: str, size: int) -> Signer:
    digest, longest, plain = getattr(hashlib, name), size // 8, Mechanism.ECDSA

    def sign(key: Any, data: bytes) -> bytes:
        # A digest longer than the group order is cut here (FIPS 186-5, 6.4.1): not every token does it.
        raw = key.sign(digest(data).digest()[:longest], mechanism=plain)
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    return sign


def _digest_pkcs1(name: str) -> Signer:
    digest, prefix = getattr(hashlib, name), digest_info_prefix(name)
    return lambda key, data: bytes(key.sign(prefix + digest(data).digest(), mechanism=Mechanism.RSA_PKCS))


def _digest_pss(name: str, parameters: tuple[Mechanism, MGF, int]) -> Signer:
    digest = getattr(hashlib, name)

    def sign(key: Any, data: bytes) -> bytes:
        return bytes(key.sign(digest(data).digest(), mechanism=Mechanism.RSA_PKCS_PSS, mechanism_param=parameters))

    return sign
