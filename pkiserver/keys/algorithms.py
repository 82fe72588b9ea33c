"""Kinds of keys and the schemes they sign with, by the names that settings, templates and commands use."""

from __future__ import annotations

import enum
from functools import cache
from typing import Self

import attrs
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from pkiserver.foundation import der
from pkiserver.foundation.errors import Refusal, Rejected

PublicKey = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
PrivateKey = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
MLDSA_PUBLIC = {44: mldsa.MLDSA44PublicKey, 65: mldsa.MLDSA65PublicKey, 87: mldsa.MLDSA87PublicKey}
CURVES: dict[int, ec.EllipticCurve] = {256: ec.SECP256R1(), 384: ec.SECP384R1(), 521: ec.SECP521R1()}
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_HASH_OIDS = {
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
_RSA_OIDS = {
    "sha256": "1.2.840.113549.1.1.11",
    "sha384": "1.2.840.113549.1.1.12",
    "sha512": "1.2.840.113549.1.1.13",
}
_ECDSA_OIDS = {"sha256": "1.2.840.10045.4.3.2", "sha384": "1.2.840.10045.4.3.3", "sha512": "1.2.840.10045.4.3.4"}
_PLAIN_OIDS = {
    "ed25519": "1.3.101.112",
    "ed448": "1.3.101.113",
    "ml-dsa-44": "2.16.840.1.101.3.4.3.17",
    "ml-dsa-65": "2.16.840.1.101.3.4.3.18",
    "ml-dsa-87": "2.16.840.1.101.3.4.3.19",
}
_PSS_OID, _MGF1_OID = "1.2.840.113549.1.1.10", "1.2.840.113549.1.1.8"
RSA_SIZES = range(2048, 8193, 256)


class KeyFamily(enum.StrEnum):
    """The mathematics of a key."""

    RSA = "rsa"
    EC = "ec"
    ED = "ed"
    ML_DSA = "ml-dsa"


@attrs.frozen
class KeyType:
    """A family and its size: modulus bits, curve (256, 384, 521, 25519, 448), ML-DSA set (44, 65, 87)."""

    family: KeyFamily
    size: int

    ALLOWED = (
        "rsa-2048 to rsa-8192 in steps of 256, ec-p256, ec-p384, ec-p521, ed25519, ed448, "
        "ml-dsa-44, ml-dsa-65, ml-dsa-87"
    )

    @classmethod
    def parse(cls, text: str) -> KeyType:
        """From ``rsa-2048`` .. ``rsa-8192``, ``ec-p256|p384|p521``, ``ed25519``, ``ed448``, ``ml-dsa-44|65|87``.

        Raises:
            Rejected: CONFIGURATION, with the allowed names.
        """
        for known in _all_key_types():
            if text.lower() == str(known):
                return known
        raise Rejected.because(
            Refusal.CONFIGURATION,
            f"unknown key type {text!r} (allowed: {cls.ALLOWED})",
        )

    @classmethod
    def of(cls, public_key: PublicKeyTypes) -> KeyType:
        """The type of a public key; raises :class:`Rejected` (BAD_KEY) for a kind that is not supported."""
        if isinstance(public_key, rsa.RSAPublicKey):
            return cls(KeyFamily.RSA, public_key.key_size)
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            for size, curve in CURVES.items():
                if public_key.curve.name == curve.name:
                    return cls(KeyFamily.EC, size)
            raise Rejected.because(Refusal.BAD_KEY, f"curve {public_key.curve.name} is not supported")
        if isinstance(public_key, ed25519.Ed25519PublicKey):
            return cls(KeyFamily.ED, 25519)
        if isinstance(public_key, ed448.Ed448PublicKey):
            return cls(KeyFamily.ED, 448)
        for size, kind in MLDSA_PUBLIC.items():
            if isinstance(public_key, kind):
                return cls(KeyFamily.ML_DSA, size)
        raise Rejected.because(Refusal.BAD_KEY, f"keys of kind {type(public_key).__name__} are not supported")

    def __str__(self) -> str:
        if self.family is KeyFamily.EC:
            return f"ec-p{self.size}"
        return f"ed{self.size}" if self.family is KeyFamily.ED else f"{self.family}-{self.size}"


@cache
def _all_key_types() -> tuple[KeyType, ...]:
    return (
        *(KeyType(KeyFamily.RSA, size) for size in RSA_SIZES),
        *(KeyType(KeyFamily.EC, size) for size in CURVES),
        KeyType(KeyFamily.ED, 25519),
        KeyType(KeyFamily.ED, 448),
        *(KeyType(KeyFamily.ML_DSA, size) for size in MLDSA_PUBLIC),
    )


class Padding(enum.StrEnum):
    """How a scheme makes a signature of its hash, or that it takes the message whole."""

    PKCS1 = "rsa"
    PSS = "rsa-pss"
    ECDSA = "ecdsa"
    WHOLE = "whole"


@attrs.frozen(eq=False)
class SignatureScheme:
    """How to sign: padding and hash. ``hash_name`` is None where the message is taken whole (RFC 8410, RFC 9881).

    There is one object for each scheme, so that schemes are compared by identity: this is done for every signature.
    """

    name: str
    padding: Padding
    hash_name: str | None
    identifier: bytes = attrs.field(repr=False)
    """AlgorithmIdentifier DER."""

    @classmethod
    def parse(cls, text: str) -> SignatureScheme:
        """From ``rsa-sha256``, ``rsa-pss-sha256``, ``ecdsa-sha256`` ``ed25519``, ``ed448``, ``ml-dsa-65`` and so on.

        Raises:
            Rejected: CONFIGURATION, with the allowed names.
        """
        found = _schemes().get(text.lower())
        if found is None:
            allowed = ", ".join(_schemes())
            raise Rejected.because(Refusal.CONFIGURATION, f"unknown signature scheme {text!r} (allowed: {allowed})")
        return found

    @classmethod
    def of_identifier(cls, identifier: bytes) -> SignatureScheme:
        """The scheme whose AlgorithmIdentifier DER this is; raises :class:`Rejected` (BAD_ALGORITHM)."""
        for scheme in _schemes().values():
            if scheme.identifier == identifier:
                return scheme
        raise Rejected.because(Refusal.BAD_ALGORITHM, "the signature algorithm is not supported")

    @classmethod
    def default_for(cls, public_key: PublicKeyTypes) -> SignatureScheme:
        """The scheme for a key when nothing else is asked: the hash follows the key's strength (SP 800-57, table 2)."""
        key_type = KeyType.of(public_key)
        if key_type.family is KeyFamily.EC:
            return _schemes()[{256: "ecdsa-sha256", 384: "ecdsa-sha384", 521: "ecdsa-sha512"}[key_type.size]]
        if key_type.family is not KeyFamily.RSA:
            return _schemes()[str(key_type)]
        if key_type.size < 4096:
            return _schemes()["rsa-sha256"]
        return _schemes()["rsa-sha384" if key_type.size < 7680 else "rsa-sha512"]

    @classmethod
    def suited_to(cls, public_key: PublicKeyTypes) -> tuple[SignatureScheme, ...]:
        """Every scheme that a key can sign by, the default first."""
        default = cls.default_for(public_key)
        others = (one for one in _schemes().values() if one is not default and one.suits(public_key))
        return (default, *others)

    def algorithm_identifier(self) -> bytes:
        """AlgorithmIdentifier DER as it stands in a certificate (RFC 4055, RFC 5758, RFC 8410, RFC 9881)."""
        return self.identifier

    @property
    def hash_algorithm(self) -> hashes.HashAlgorithm | None:
        """The hash as cryptography's builders take it; None for schemes that take the message whole."""
        return HASHES[self.hash_name] if self.hash_name else None

    @property
    def rsa_padding(self) -> PSS | PKCS1v15 | None:
        """The padding as cryptography's builders take it; None for schemes that are not RSA."""
        if self.padding is Padding.PKCS1:
            return PKCS1v15()
        if self.padding is Padding.PSS and self.hash_name:
            chosen = HASHES[self.hash_name]
            return PSS(mgf=MGF1(chosen), salt_length=chosen.digest_size)
        return None

    def suits(self, public_key: PublicKeyTypes) -> bool:
        """Whether a key of this kind can sign by this scheme."""
        return self.suits_type(KeyType.of(public_key))

    def suits_type(self, key_type: KeyType) -> bool:
        """Whether keys of a type can sign by this scheme."""
        if key_type.family is KeyFamily.RSA:
            return self.padding in {Padding.PKCS1, Padding.PSS}
        if key_type.family is KeyFamily.EC:
            return self.padding is Padding.ECDSA
        return self.name == str(key_type)

    def require(self, public_key: PublicKeyTypes) -> Self:
        """Itself, when it suits the key; raises :class:`Rejected` (BAD_ALGORITHM) otherwise."""
        if not self.suits(public_key):
            raise Rejected.because(
                Refusal.BAD_ALGORITHM, f"a key of type {KeyType.of(public_key)} cannot sign by {self.name}"
            )
        return self

    def verify(self, public_key: PublicKeyTypes, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` is this key's over ``data`` by this scheme."""
        try:
            if isinstance(public_key, rsa.RSAPublicKey) and self.rsa_padding and self.hash_algorithm:
                public_key.verify(signature, data, self.rsa_padding, self.hash_algorithm)
            elif isinstance(public_key, ec.EllipticCurvePublicKey) and self.hash_algorithm:
                public_key.verify(signature, data, ec.ECDSA(self.hash_algorithm))
            elif self.suits(public_key):
                public_key.verify(signature, data)  # type: ignore[union-attr, call-arg]  # the three whole-message kinds
            else:
                return False
        except InvalidSignature:
            return False
        return True


@cache
def _schemes() -> dict[str, SignatureScheme]:
    found: list[SignatureScheme] = []
    for name, oid in _RSA_OIDS.items():
        found.append(
            SignatureScheme(f"rsa-{name}", Padding.PKCS1, name, der.sequence(der.object_identifier(oid), der.NULL_DER))
        )
    found.extend(SignatureScheme(f"rsa-pss-{name}", Padding.PSS, name, _pss_identifier(name)) for name in HASHES)
    for name, oid in _ECDSA_OIDS.items():
        found.append(SignatureScheme(f"ecdsa-{name}", Padding.ECDSA, name, der.sequence(der.object_identifier(oid))))
    for name, oid in _PLAIN_OIDS.items():
        found.append(SignatureScheme(name, Padding.WHOLE, None, der.sequence(der.object_identifier(oid))))
    return {scheme.name: scheme for scheme in found}


def _pss_identifier(name: str) -> bytes:
    digest = der.sequence(der.object_identifier(_HASH_OIDS[name]), der.NULL_DER)
    return der.sequence(
        der.object_identifier(_PSS_OID),
        der.sequence(
            der.tlv(der.context(0), digest),
            der.tlv(der.context(1), der.sequence(der.object_identifier(_MGF1_OID), digest)),
            der.tlv(der.context(2), der.integer(HASHES[name].digest_size)),
        ),
    )


@cache
def digest_info_prefix(hash_name: str) -> bytes:
    """What precedes the digest in DigestInfo (RFC 8017, 9.2), for tokens that pad but do not hash."""
    size = HASHES[hash_name].digest_size
    empty = der.sequence(
        der.sequence(der.object_identifier(_HASH_OIDS[hash_name]), der.NULL_DER), der.tlv(4, bytes(size))
    )
    return empty[:-size]


def spki(public_key: PublicKeyTypes) -> bytes:
    """SubjectPublicKeyInfo DER."""
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_spki(octets: bytes, *, pem: bool = False) -> PublicKey:
    """A supported public key from SubjectPublicKeyInfo, DER or ``pem``; raises :class:`Rejected` (BAD_KEY)."""
    try:
        key = (serialization.load_pem_public_key if pem else serialization.load_der_public_key)(octets)
    except (ValueError, TypeError) as error:
        raise Rejected.because(Refusal.BAD_KEY, "the public key cannot be read") from error
    KeyType.of(key)
    return key  # type: ignore[return-value]  # KeyType.of lets only these kinds pass
