"""Whether a PKCS#10 request is signed with its own key (RFC 2986 section 4.2), by old algorithms too."""

from __future__ import annotations

import enum

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import SignatureAlgorithmOID

_OLDEST: dict[x509.ObjectIdentifier, padding.PKCS1v15 | ec.ECDSA] = {
    SignatureAlgorithmOID.RSA_WITH_MD5: padding.PKCS1v15(),
    SignatureAlgorithmOID.ECDSA_WITH_SHA1: ec.ECDSA(hashes.SHA1()),  # noqa: S303 - callers say whether it will do
}


class OldDigest(enum.StrEnum):
    """A digest under whose signature cryptography takes no request for proved; callers may, for old devices."""

    SHA1 = "sha1"
    MD5 = "md5"


def old_digest(request: x509.CertificateSigningRequest) -> OldDigest | None:
    """The old digest that a request is signed with. Raises what :data:`UNREADABLE` names for an unknown algorithm."""
    digest = request.signature_hash_algorithm
    return OldDigest(digest.name) if digest is not None and digest.name in set(OldDigest) else None


def is_proved(request: x509.CertificateSigningRequest, public_key: CertificatePublicKeyTypes, signed: bytes) -> bool:
    """Whether the request's signature is one by its key over ``signed``.

    Args:
        request: decoded, its attributes perhaps in another order than those of ``signed``.
        public_key: the one in the request.
        signed: the CertificationRequestInfo as it came.

    Raises:
        One of :data:`UNREADABLE` for an algorithm that is unknown or not the key's.
    """
    if request.tbs_certrequest_bytes == signed and old_digest(request) is None:
        return request.is_signature_valid
    try:
        _verify(request, public_key, signed)
    except InvalidSignature:
        return False
    return True


def _verify(request: x509.CertificateSigningRequest, public_key: CertificatePublicKeyTypes, signed: bytes) -> None:
    how, digest = request.signature_algorithm_parameters, request.signature_hash_algorithm
    # cryptography names no parameters for the oldest
    how = _OLDEST.get(request.signature_algorithm_oid, how)
    if isinstance(public_key, rsa.RSAPublicKey) and isinstance(how, padding.PKCS1v15 | padding.PSS):
        assert digest is not None  # both kinds of padding come with one
        public_key.verify(request.signature, signed, how, digest)
    elif isinstance(public_key, ec.EllipticCurvePublicKey) and isinstance(how, ec.ECDSA):
        public_key.verify(request.signature, signed, how)
    elif isinstance(public_key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey) and digest is None:
        public_key.verify(request.signature, signed)
    else:
        raise ValueError("the algorithm is not one for the key")
