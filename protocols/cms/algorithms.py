"""Digests and signature algorithms of SignedData: which OID means what, and verification with the public key.

MD5 and SHA-1 verify only where the caller says so, and nothing here signs.
"""

from __future__ import annotations

import attrs
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from pkiserver.foundation.errors import Refusal, Rejected
from protocols.cms import oids
from protocols.cms.messages import AlgorithmIdentifier, PssParameters, decode, parameters_of

_DIGESTS: dict[str, hashes.HashAlgorithm] = {
    oids.SHA224: hashes.SHA224(),
    oids.SHA256: hashes.SHA256(),
    oids.SHA384: hashes.SHA384(),
    oids.SHA512: hashes.SHA512(),
    oids.SHA3_256: hashes.SHA3_256(),
    oids.SHA3_384: hashes.SHA3_384(),
    oids.SHA3_512: hashes.SHA3_512(),
    oids.SHAKE256: hashes.SHAKE256(64),
    oids.SHAKE256_LEN: hashes.SHAKE256(64),
}
SHAKE256_512_BITS = b"\x02\x02\x02\x00"
"""INTEGER 512: the parameters of id-shake256-len, and the only length that is accepted (RFC 8419 section 3.1)."""
_LEGACY_DIGESTS: dict[str, hashes.HashAlgorithm] = {
    oids.MD5: hashes.MD5(),  # noqa: S303 - verifies requests of old devices where a template says so
    oids.SHA1: hashes.SHA1(),  # noqa: S303 - likewise
}
_RSA_WITH: dict[str, str] = {
    "1.2.840.113549.1.1.4": oids.MD5,
    "1.2.840.113549.1.1.5": oids.SHA1,
    "1.2.840.113549.1.1.14": oids.SHA224,
    "1.2.840.113549.1.1.11": oids.SHA256,
    "1.2.840.113549.1.1.12": oids.SHA384,
    "1.2.840.113549.1.1.13": oids.SHA512,
    "2.16.840.1.101.3.4.3.14": oids.SHA3_256,
    "2.16.840.1.101.3.4.3.15": oids.SHA3_384,
    "2.16.840.1.101.3.4.3.16": oids.SHA3_512,
}
_ECDSA_WITH: dict[str, str] = {
    "1.2.840.10045.4.1": oids.SHA1,
    "1.2.840.10045.4.3.1": oids.SHA224,
    "1.2.840.10045.4.3.2": oids.SHA256,
    "1.2.840.10045.4.3.3": oids.SHA384,
    "1.2.840.10045.4.3.4": oids.SHA512,
    "2.16.840.1.101.3.4.3.10": oids.SHA3_256,
    "2.16.840.1.101.3.4.3.11": oids.SHA3_384,
    "2.16.840.1.101.3.4.3.12": oids.SHA3_512,
}
_ML_DSA: dict[str, type] = {
    "2.16.840.1.101.3.4.3.17": mldsa.MLDSA44PublicKey,
    "2.16.840.1.101.3.4.3.18": mldsa.MLDSA65PublicKey,
    "2.16.840.1.101.3.4.3.19": mldsa.MLDSA87PublicKey,
}


@attrs.frozen
class LegacyDigests:
    """Which old digests a verifier accepts; none by default."""

    md5: bool = False
    sha1: bool = False

    def allows(self, oid: str) -> bool:
        """Whether the digest with this OID is switched on."""
        return (oid == oids.MD5 and self.md5) or (oid == oids.SHA1 and self.sha1)


NO_LEGACY = LegacyDigests()


def digest_algorithm(oid: str, legacy: LegacyDigests = NO_LEGACY) -> hashes.HashAlgorithm:
    """The digest with this OID. Raises :class:`Rejected` (bad algorithm) when unknown or not allowed."""
    found = _DIGESTS.get(oid)
    if found is None and legacy.allows(oid):
        found = _LEGACY_DIGESTS[oid]
    if found is None:
        raise Rejected.because(Refusal.BAD_ALGORITHM, f"digest algorithm {oid} is not accepted")
    return found


def digest(oid: str, data: bytes, legacy: LegacyDigests = NO_LEGACY) -> bytes:
    """The digest of ``data``. Raises :class:`Rejected` (bad algorithm) when unknown or not allowed."""
    context = hashes.Hash(digest_algorithm(oid, legacy))
    context.update(data)
    return context.finalize()


def verify_signature(
    public_key: CertificatePublicKeyTypes,
    identifier: AlgorithmIdentifier,
    signature: bytes,
    data: bytes,
    *,
    digest_oid: str,
    legacy: LegacyDigests = NO_LEGACY,
) -> None:
    """Check a SignerInfo's signature over ``data``.

    Args:
        public_key: the signer's.
        identifier: signatureAlgorithm; plain rsaEncryption takes its digest from ``digest_oid``.
        signature: the signature value.
        data: what is signed, undigested.
        digest_oid: digestAlgorithm of the same SignerInfo.
        legacy: which old digests are allowed.

    Raises:
        Rejected: the algorithm is unknown, not allowed or not the key's (bad algorithm), or the signature is wrong
            (bad proof of possession).
    """
    oid = identifier.algorithm.dotted_string
    try:
        if isinstance(public_key, rsa.RSAPublicKey):
            _verify_rsa(public_key, identifier, signature, data, digest_oid=digest_oid, legacy=legacy)
        elif isinstance(public_key, ec.EllipticCurvePublicKey) and oid in _ECDSA_WITH:
            scheme = ec.ECDSA(digest_algorithm(_ECDSA_WITH[oid], legacy))
            public_key.verify(signature, data, scheme)
        elif (
            (isinstance(public_key, ed25519.Ed25519PublicKey) and oid == oids.ED25519)
            or (isinstance(public_key, ed448.Ed448PublicKey) and oid == oids.ED448)
            or (
                isinstance(public_key, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey)
                and oid in _ML_DSA
                and isinstance(public_key, _ML_DSA[oid])
            )
        ):
            public_key.verify(signature, data)
        else:
            raise _unsuitable(oid)
    except InvalidSignature as error:
        raise Rejected.because(Refusal.BAD_PROOF, "the signature of the message is wrong") from error
    except UnsupportedAlgorithm as error:
        raise Rejected.because(Refusal.BAD_ALGORITHM, f"signature algorithm {oid} is not accepted") from error
    except ValueError as error:  # a digest that has no room in a small key
        raise _unsuitable(oid) from error


def _verify_rsa(
    public_key: rsa.RSAPublicKey,
    identifier: AlgorithmIdentifier,
    signature: bytes,
    data: bytes,
    *,
    digest_oid: str,
    legacy: LegacyDigests,
) -> None:
    """PKCS#1 v1.5 (with the digest in the OID, or beside it) and PSS."""
    oid = identifier.algorithm.dotted_string
    if oid == oids.RSA_ENCRYPTION:
        public_key.verify(signature, data, padding.PKCS1v15(), digest_algorithm(digest_oid, legacy))
    elif oid in _RSA_WITH:
        public_key.verify(signature, data, padding.PKCS1v15(), digest_algorithm(_RSA_WITH[oid], legacy))
    elif oid == oids.RSA_PSS:
        pss, hash_algorithm = _pss(identifier, legacy)
        public_key.verify(signature, data, pss, hash_algorithm)
    else:
        raise _unsuitable(oid)


def _unsuitable(oid: str) -> Rejected:
    return Rejected.because(Refusal.BAD_ALGORITHM, f"signature algorithm {oid} does not suit the signer's key")


def _pss(identifier: AlgorithmIdentifier, legacy: LegacyDigests) -> tuple[padding.PSS, hashes.HashAlgorithm]:
    """PSS padding and hash from the parameters (RFC 4055 section 3.1); absent parts mean SHA-1 and 20 octets."""
    parameters = decode(PssParameters, parameters_of(identifier) or b"\x30\x00", "RSASSA-PSS parameters")
    hash_oid = mask_oid = oids.SHA1
    if parameters.hash_algorithm is not None:
        hash_oid = parameters.hash_algorithm.algorithm.dotted_string
    if parameters.mask_gen_algorithm is not None:
        mask = parameters.mask_gen_algorithm
        inner = decode(AlgorithmIdentifier, parameters_of(mask) or b"", "MGF1 parameters")
        mask_oid = inner.algorithm.dotted_string
    salt = 20 if parameters.salt_length is None else parameters.salt_length
    if not 0 <= salt <= 1024:
        raise Rejected.because(Refusal.BAD_ALGORITHM, "an impossible PSS salt length")
    mgf = padding.MGF1(digest_algorithm(mask_oid, legacy))
    return padding.PSS(mgf, salt), digest_algorithm(hash_oid, legacy)
