"""Whether an OCSP answer is signed by whom it may be signed by (RFC 6960 section 3.2)."""

from __future__ import annotations

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


def check_signer(response: ocsp.OCSPResponse, octets_of_answer: bytes, issuer: x509.Certificate, now: datetime) -> None:
    """The issuer itself signed, or whom it certified for this.

    Raises:
        WrongAnswerError: somebody else did, or nobody.
    """
    signer = issuer
    if response.certificates and response.certificates[0] != issuer:
        signer = response.certificates[0]
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
