"""Reading a userSMIMECertificate (RFC 2798 section 2.8) before it is kept."""

from __future__ import annotations

import attrs
from cryptography import x509

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.publication.certificate import can_encrypt
from protocols.cms.verification import parse_signed, verify

SMIME_CAPABILITIES = "1.2.840.113549.1.9.15"


@attrs.frozen
class Announcement:
    """Who signed, and which certificate mail is to be encrypted to."""

    signer: bytes = attrs.field(repr=False)
    announced: bytes = attrs.field(repr=False)


def read_announcement(message: bytes) -> Announcement:
    """Verify a SignedData with smimeCapabilities; whose certificates they are is for the store to say.

    Raises:
        Rejected: it is none, has another number of signers than one, or its signature does not verify.
    """
    signed = parse_signed(message)
    if len(signed.signers) != 1:
        raise Rejected.because(Refusal.MALFORMED, "a userSMIMECertificate has exactly one signer")
    (signer,) = signed.signers
    if not signer.signed.values(SMIME_CAPABILITIES):
        raise Rejected.because(Refusal.MALFORMED, "the message announces no smimeCapabilities")
    own = None
    encryption = None
    for der in signed.certificates:
        try:
            certificate = x509.load_der_x509_certificate(der)
            verify(signed, signer, certificate.public_key(), detached=None)
        except Rejected:
            certificate = x509.load_der_x509_certificate(der)
        except (ValueError, TypeError):
            continue
        else:
            own = der
        if can_encrypt(certificate) and not _is_ca(certificate):
            encryption = encryption or der
    if own is None:
        raise Rejected.because(Refusal.BAD_PROOF, "the signature does not verify with a certificate in the message")
    if encryption is None:
        raise Rejected.because(Refusal.MALFORMED, "no certificate in the message can encrypt mail")
    return Announcement(own, own if can_encrypt(x509.load_der_x509_certificate(own)) else encryption)


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
