"""The to-be-signed certificate: names, key and extensions as cryptography encodes them, put together here.

cryptography's own builder gives out a certificate only with a signature, which took over half of its time and was
thrown away. The linter sees the certificate with a worthless signature; the HSM sees the TBSCertificate.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, cast

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from pkiserver.authority.extensions import Extension, encode_extension
from pkiserver.authority.requests import spki_der
from pkiserver.foundation import der
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.algorithms import Padding, SignatureScheme

SERIAL_OCTETS = 20
_VERSION_3 = der.explicit(0, der.integer(2))

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


def build_draft(
    *,
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
        if not_after < not_before:
            raise ValueError("it ends before it begins")
        tbs = der.sequence(
            _VERSION_3,
            der.integer(serial),
            scheme.algorithm_identifier(),
            issuer_der,
            der.sequence(der.time(not_before), der.time(not_after)),
            subject.public_bytes() if subject_der is None else subject_der,
            spki_der(public_key),
            _extensions(extensions),
        )
    except (ValueError, TypeError) as error:
        raise Rejected.because(Refusal.MALFORMED, f"the certificate cannot be encoded: {error}") from error
    return Draft(serial, tbs, der.sequence(tbs, _worthless(scheme)))


def _extensions(extensions: Iterable[Extension]) -> bytes:
    """The extensions field, empty without any; raises :class:`ValueError` on two of a kind (RFC 5280 section 4.2)."""
    found = list(extensions)
    if len({one.oid for one in found}) != len(found):
        raise ValueError("an extension is there twice")
    return der.explicit(3, der.sequence(*map(encode_extension, found))) if found else b""


@functools.cache
def _worthless(scheme: SignatureScheme) -> bytes:
    """What follows a TBSCertificate: AlgorithmIdentifier and a signature over nothing, the same every time.

    The linter knows it again and need not look at it anew.
    """
    name, day = x509.Name([]), datetime(2000, 1, 1, tzinfo=UTC)
    key = _throwaway(scheme).public_key()
    builder, digest = x509.CertificateBuilder(name, name, key, 1, day, day), cast("Any", scheme.hash_algorithm)
    certificate = builder.sign(_throwaway(scheme), digest, rsa_padding=scheme.rsa_padding)
    sample = certificate.public_bytes(serialization.Encoding.DER)
    outer = der.element(sample)
    return sample[der.element(sample, outer.body, outer.end).end : outer.end]
