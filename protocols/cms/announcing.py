"""What a person's mail program can do, signed by the person's own key: the value of userSMIMECertificate.

RFC 2798 section 2.8: a SignedData of type data with absent content, with the person's whole chain and smimeCapabilities
(RFC 8551 section 2.5.2).
"""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pkiserver.foundation.der import sequence
from pkiserver.keys.algorithms import PrivateKey, SignatureScheme
from protocols.cms import messages, oids
from protocols.cms.signing import SignedContent, SignerProfile, attribute, prepare, signing_time

CAPABILITIES = (oids.AES256_CBC, oids.AES128_CBC)
"""The best first. Which program will use the key is not known: what RFC 5751 and RFC 8551 want of every one."""


def announce(key: PrivateKey, certificate: bytes, chain: tuple[bytes, ...], now: datetime) -> bytes:
    """The DER SignedData for a key that is at hand, once, because it was generated here.

    Args:
        key: The person's.
        certificate: For it, DER; mail is encrypted to it.
        chain: The certificates above, DER, the issuer's first.
        now: The signing time.
    """
    parsed = x509.load_der_x509_certificate(certificate)
    scheme = SignatureScheme.default_for(key.public_key())
    unsigned = prepare(
        SignedContent(oids.DATA, b"", detached=True),
        SignerProfile(parsed, scheme),
        attributes=(signing_time(now), attribute(oids.SMIME_CAPABILITIES, _capabilities())),
        certificates=(certificate, *chain),
    )
    return unsigned.finish(sign_with(key, scheme, unsigned.signed_attrs))


def sign_with(key: PrivateKey, scheme: SignatureScheme, data: bytes) -> bytes:
    """A signature by a key that is at hand, by the default scheme of the key."""
    digest = scheme.hash_algorithm
    if isinstance(key, rsa.RSAPrivateKey):
        assert digest is not None
        assert scheme.rsa_padding is not None
        return key.sign(data, scheme.rsa_padding, digest)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        assert digest is not None
        return key.sign(data, ec.ECDSA(digest))
    return key.sign(data)


def _capabilities() -> bytes:
    return sequence(*(messages.octets(messages.algorithm(one)) for one in CAPABILITIES))
