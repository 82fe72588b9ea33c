"""The to-be-signed certificate, made by cryptography's encoder with a throw-away key in the issuer's place.

Only the algorithm of the throw-away key matters: it makes the encoder write the AlgorithmIdentifier that the issuer's
key will sign under. The linter sees the certificate with the throw-away signature; the HSM sees the TBSCertificate.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from pkiserver.authority import certparts
from pkiserver.authority.extensions import Extension
from pkiserver.foundation import der
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import Padding, SignatureScheme

SERIAL_OCTETS = 20

_WHOLE: dict[str, Callable[[], Any]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ed448": ed448.Ed448PrivateKey.generate,
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate,
}


class RandomPool:
    """Random octets drawn in large pieces and used once each.

    Every system call lets go of the interpreter's lock, and getting it back from a busy writer thread takes long.
    """

    def __init__(self, source: Callable[[int], bytes] = secrets.token_bytes, size: int = 4096) -> None:
        self._source = source
        self._size = size
        self._pool = b""

    def __call__(self, count: int) -> bytes:
        """``count`` octets that nobody has had."""
        if len(self._pool) < count:
            self._pool = self._source(max(self._size, count))
        taken, self._pool = self._pool[:count], self._pool[count:]
        return taken


@attrs.frozen
class Draft:
    """A certificate to be: ``tbs`` is DER; ``sample`` is a DER certificate around it with a worthless signature."""

    serial: int
    tbs: bytes = attrs.field(repr=False)
    sample: bytes = attrs.field(repr=False)


def random_serial(rng: Callable[[int], bytes]) -> int:
    """A positive serial number of exactly 20 octets in DER, 158 bits of it random (RFC 5280 section 4.1.2.2)."""
    return int.from_bytes(rng(SERIAL_OCTETS), "big") >> 2 | 1 << 158


@functools.cache
def _throwaway(scheme: SignatureScheme) -> Any:
    """A private key that signs by ``scheme``; any size of its family does."""
    if scheme.padding is Padding.WHOLE:
        return _WHOLE[scheme.name]()
    if scheme.padding is Padding.ECDSA:
        return ec.generate_private_key(ec.SECP256R1())
    # 1024 bits hold every padding here and cost least; nobody will ever verify what this key signs.
    return rsa.generate_private_key(65537, 1024)  # noqa: S505


def _sign(builder: x509.CertificateBuilder, scheme: SignatureScheme) -> x509.Certificate:
    digest: Any = scheme.hash_algorithm
    return builder.sign(_throwaway(scheme), digest, rsa_padding=scheme.rsa_padding)


def build_draft(
    *,
    issuer: x509.Name,
    issuer_der: bytes,
    subject: x509.Name,
    subject_der: bytes | None = None,
    public_key: CertificatePublicKeyTypes,
    serial: int,
    not_before: datetime,
    not_after: datetime,
    extensions: Iterable[Extension],
    scheme: SignatureScheme,
) -> Draft:
    """Encode a TBSCertificate (RFC 5280 section 4.1) whose issuer is ``issuer_der``, octet for octet.

    ``subject_der``, where given, does the same for the subject (a CA keeps its DN's octets when it is renewed).
    Raises :class:`Rejected` when the values cannot be encoded.
    """
    try:
        builder = x509.CertificateBuilder(
            issuer_name=issuer,
            subject_name=subject,
            public_key=public_key,
            serial_number=serial,
            extensions=list(extensions),
        )
        certificate = _sign(builder.not_valid_before(not_before).not_valid_after(not_after), scheme)
    except (ValueError, TypeError) as error:
        raise Rejected.because(Refusal.MALFORMED, f"the certificate cannot be encoded: {error}") from error
    tbs = _verbatim(certificate.tbs_certificate_bytes, issuer_der, subject_der)
    return Draft(serial, tbs, der.sequence(tbs, _worthless(scheme)))


def _verbatim(tbs: bytes, issuer_der: bytes, subject_der: bytes | None) -> bytes:
    """The TBSCertificate with the names' octets put right where the encoder wrote other ones."""
    parts = certparts.tbs_parts(tbs)
    if subject_der is not None and parts.octets(parts.subject) != subject_der:
        tbs = certparts.replace_subject(tbs, subject_der)
    if parts.octets(parts.issuer) != issuer_der:
        tbs = certparts.replace_issuer(tbs, issuer_der)
    return tbs


@functools.cache
def _worthless(scheme: SignatureScheme) -> bytes:
    """What follows a TBSCertificate: AlgorithmIdentifier and a signature over nothing, the same every time.

    The linter knows it again and need not look at it anew.
    """
    name, day = x509.Name([]), datetime(2000, 1, 1, tzinfo=UTC)
    key = _throwaway(scheme).public_key()
    certificate = _sign(x509.CertificateBuilder(name, name, key, 1, day, day), scheme)
    sample = certificate.public_bytes(serialization.Encoding.DER)
    outer = der.element(sample)
    return sample[der.element(sample, outer.body, outer.end).end : outer.end]
