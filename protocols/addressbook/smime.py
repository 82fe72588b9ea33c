"""Reading a userSMIMECertificate (RFC 2798 section 2.8) before it is kept."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.foundation.unreadable import UNREADABLE
from pkiserver.publication.certificate import can_encrypt
from protocols.cms.verification import SignedMessage, Signer, parse_signed, verify

MOST_ABOVE = 8
"""Certificates of a chain that are looked at."""
SMIME_CAPABILITIES = "1.2.840.113549.1.9.15"


@attrs.frozen
class Announcement:
    """Who signed, and which certificate mail is to be encrypted to."""

    signer: bytes = attrs.field(repr=False)
    announced: bytes = attrs.field(repr=False)


def read_announcement(message: bytes) -> Announcement:
    """Verify a SignedData with smimeCapabilities; whose certificates they are is for the store to say.

    Raises:
        Rejected: it is none, has another number of signers than one, or its signature or a chain does not verify.
    """
    signed = parse_signed(message)
    if len(signed.signers) != 1:
        raise Rejected.because(Refusal.MALFORMED, "a userSMIMECertificate has exactly one signer")
    (signer,) = signed.signers
    if not signer.signed.values(SMIME_CAPABILITIES):
        raise Rejected.because(Refusal.MALFORMED, "the message announces no smimeCapabilities")
    parsed = _certificates(signed.certificates)
    own = next((one for one in parsed if _verifies(signed, signer, one)), None)
    if own is None:
        raise Rejected.because(Refusal.BAD_PROOF, "the signature does not verify with a certificate in the message")
    able = [one for one in (own, *parsed) if can_encrypt(one) and not _is_ca(one)]
    if not able:
        raise Rejected.because(Refusal.MALFORMED, "no certificate in the message can encrypt mail")
    for one in (own, able[0]):
        _check_chain(one, parsed)
    return Announcement(own.public_bytes(Encoding.DER), able[0].public_bytes(Encoding.DER))


def _certificates(ders: Iterable[bytes]) -> list[x509.Certificate]:
    """Those that can be read, and whose keys can."""
    found = []
    for der in ders:
        try:
            certificate = x509.load_der_x509_certificate(der)
            certificate.public_key()
            _is_ca(certificate)
            can_encrypt(certificate)
        except UNREADABLE:
            continue
        found.append(certificate)
    return found


def _verifies(signed: SignedMessage, signer: Signer, certificate: x509.Certificate) -> bool:
    try:
        verify(signed, signer, certificate.public_key(), detached=b"")  # absent content is recommended
    except Rejected:
        return False
    return True


def _check_chain(certificate: x509.Certificate, others: list[x509.Certificate]) -> None:
    """The chain is in the message (RFC 2798 section 2.8), at least its first step, and every step verifies."""
    above, length = certificate, 0
    while above.subject != above.issuer and length < MOST_ABOVE:
        issuer = next((one for one in others if _is_ca(one) and _issued(one, above)), None)
        if issuer is None:
            break
        above, length = issuer, length + 1
    if not length:
        raise Rejected.because(Refusal.MALFORMED, "the message lacks the chain of a certificate in it")


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _is_ca(certificate: x509.Certificate) -> bool:
    constraints = extension_value(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca
