"""Whether an OCSP answer is signed by whom it may be signed by (RFC 6960 section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from pkiserver.authority.certparts import signature_identifier
from pkiserver.foundation import der
from pkiserver.keys.algorithms import SignatureScheme


class WrongAnswerError(Exception):
    """The answer is not one that a client would be content with; the text says why."""


def check_signer(
    response: ocsp.OCSPResponse,
    octets_of_answer: bytes,
    issuer: x509.Certificate,
    now: datetime,
    *,
    known: Sequence[x509.Certificate] = (),
) -> None:
    """The issuer itself signed, or whom it certified for this.

    ``known`` are responders whose certificates the client has by other means, for answers that show none.

    Raises:
        WrongAnswerError: somebody else did, or nobody.
    """
    signer = next(iter(response.certificates), None) or _named(response, known) or issuer
    if signer != issuer:
        octets = signer.public_bytes(Encoding.DER)
        scheme = SignatureScheme.of_identifier(signature_identifier(octets))
        if not scheme.verify(issuer.public_key(), signer.signature, signer.tbs_certificate_bytes):
            raise WrongAnswerError("the responder's certificate was not signed by the issuer's key")
        if not _signs_ocsp(signer):
            raise WrongAnswerError("the responder's certificate is not for OCSP")
        if not signer.not_valid_before_utc <= now <= signer.not_valid_after_utc:
            raise WrongAnswerError("the responder's certificate is not valid now")
    scheme = SignatureScheme.of_identifier(_algorithm_of(octets_of_answer))
    if not scheme.verify(signer.public_key(), response.signature, response.tbs_response_bytes):
        raise WrongAnswerError("the signature is not the responder's")


def _named(response: ocsp.OCSPResponse, known: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """The one that the answer names as its responder (RFC 6960 section 4.2.1, ResponderID)."""
    for one in known:
        key_hash = x509.SubjectKeyIdentifier.from_public_key(one.public_key()).digest  # SHA-1 of the key's bits
        if one.subject == response.responder_name or key_hash == response.responder_key_hash:
            return one
    return None


def _algorithm_of(answer: bytes) -> bytes:
    """The signatureAlgorithm of a successful OCSPResponse, DER (RFC 6960 section 4.2.1)."""
    # SEQUENCE { responseStatus, [0] { SEQUENCE { responseType, response OCTET STRING { BasicOCSPResponse } } } }
    response_bytes = der.children(answer, der.children(answer, der.element(answer))[1])[0]
    basic = der.element(answer, der.children(answer, response_bytes)[1].body)
    found = der.children(answer, basic)[1]
    return answer[found.start : found.end]


def _signs_ocsp(certificate: x509.Certificate) -> bool:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return ExtendedKeyUsageOID.OCSP_SIGNING in usages
