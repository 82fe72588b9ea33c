"""Private keys as pyca/cryptography's builders know them, each of which signs one kind of structure only.

They work unchanged in cryptography's builders of certificates, CRLs, certification requests and OCSP responses.
They never give out private octets, and they refuse digests (``Prehashed``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric import utils as asymmetric_utils

from pkiserver.keys.algorithms import KeyFamily, PrivateKey, SignatureScheme
from pkiserver.keys.handle import KeyHandle

Check = Callable[[bytes, SignatureScheme], object]
"""A door's look at the octets to be signed; raises :class:`~pkiserver.keys.faults.WrongDoor`."""


class _DoorKey:
    """What the key objects of all kinds share."""

    def __init__(self, handle: KeyHandle, check: Check) -> None:
        self._handle = handle
        self._check = check
        self._suited: set[SignatureScheme] = set()

    def _sign(self, data: Any, scheme: SignatureScheme) -> bytes:
        octets = bytes(data)
        if scheme not in self._suited:
            self._suited.add(scheme.require(self._handle.public_key))
        self._check(octets, scheme)
        signature = self._handle.sign_now(octets, scheme)
        return self._handle.sign(octets, scheme) if signature is None else signature

    def public_key(self) -> Any:
        """The public half."""
        return self._handle.public_key

    def _sealed(self, *_arguments: object, **_named: object) -> NoReturn:
        raise UnsupportedAlgorithm("the private key does not leave its token")

    private_bytes = private_bytes_raw = private_numbers = sign_mu = decrypt = exchange = _sealed

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Any:
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._handle.name}>"


class RsaDoorKey(_DoorKey, rsa.RSAPrivateKey):
    """An RSA key behind one door."""

    @property
    def key_size(self) -> int:
        """Modulus bits."""
        return self._handle.key_type.size

    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
        """Sign by PKCS#1 v1.5, or by PSS with MGF1 over the same hash and a salt of the hash's length."""
        name = _hash_name(algorithm)
        return self._sign(
            data, SignatureScheme.parse(f"rsa-pss-{name}" if _is_pss(padding, algorithm) else f"rsa-{name}")
        )


class EcDoorKey(_DoorKey, ec.EllipticCurvePrivateKey):
    """An elliptic-curve key behind one door."""

    @property
    def key_size(self) -> int:
        """Bits of the curve."""
        return self._handle.key_type.size

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        return cast("ec.EllipticCurvePublicKey", self._handle.public_key).curve

    def sign(self, data: Any, signature_algorithm: Any) -> bytes:
        """Sign by ECDSA; Ecdsa-Sig-Value DER."""
        return self._sign(data, SignatureScheme.parse(f"ecdsa-{_hash_name(signature_algorithm.algorithm)}"))


class Ed25519DoorKey(_DoorKey, ed25519.Ed25519PrivateKey):
    """An Ed25519 key behind one door."""

    def sign(self, data: Any) -> bytes:
        """Sign by pure Ed25519 (RFC 8032)."""
        return self._sign(data, SignatureScheme.parse("ed25519"))


class Ed448DoorKey(_DoorKey, ed448.Ed448PrivateKey):
    """An Ed448 key behind one door."""

    def sign(self, data: Any) -> bytes:
        """Sign by pure Ed448 (RFC 8032)."""
        return self._sign(data, SignatureScheme.parse("ed448"))


class _MlDsaDoorKey(_DoorKey):
    def sign(self, data: Any, context: Any = None) -> bytes:
        """Sign by pure ML-DSA with an empty context (RFC 9881)."""
        if context:
            raise UnsupportedAlgorithm("ML-DSA in X.509 has an empty context")
        return self._sign(data, SignatureScheme.parse(str(self._handle.key_type)))


class MlDsa44DoorKey(_MlDsaDoorKey, mldsa.MLDSA44PrivateKey):
    """An ML-DSA-44 key behind one door."""


class MlDsa65DoorKey(_MlDsaDoorKey, mldsa.MLDSA65PrivateKey):
    """An ML-DSA-65 key behind one door."""


class MlDsa87DoorKey(_MlDsaDoorKey, mldsa.MLDSA87PrivateKey):
    """An ML-DSA-87 key behind one door."""


_KINDS: dict[tuple[KeyFamily, int], type[_DoorKey]] = {
    (KeyFamily.ED, 25519): Ed25519DoorKey,
    (KeyFamily.ED, 448): Ed448DoorKey,
    (KeyFamily.ML_DSA, 44): MlDsa44DoorKey,
    (KeyFamily.ML_DSA, 65): MlDsa65DoorKey,
    (KeyFamily.ML_DSA, 87): MlDsa87DoorKey,
}


def door_key(handle: KeyHandle, check: Check) -> PrivateKey:
    """The key object for a handle; every signature passes ``check`` first."""
    family = handle.key_type.family
    kind = {KeyFamily.RSA: RsaDoorKey, KeyFamily.EC: EcDoorKey}.get(family) or _KINDS[family, handle.key_type.size]
    return cast("PrivateKey", kind(handle, check))


def _hash_name(algorithm: hashes.HashAlgorithm | asymmetric_utils.Prehashed) -> str:
    if isinstance(algorithm, asymmetric_utils.Prehashed):
        raise UnsupportedAlgorithm("no door signs a digest")
    return algorithm.name


def _is_pss(chosen: Any, algorithm: hashes.HashAlgorithm) -> bool:
    if isinstance(chosen, padding.PKCS1v15):
        return False
    if isinstance(chosen, padding.PSS):
        salt = chosen._salt_length  # noqa: SLF001 - cryptography has no public way to read it
        same_salt = salt == algorithm.digest_size or salt is padding.PSS.DIGEST_LENGTH
        if same_salt and chosen.mgf._algorithm.name == algorithm.name:  # noqa: SLF001
            return True
    raise UnsupportedAlgorithm("PSS is signed with MGF1 over the same hash and a salt of the hash's length only")
