"""Certificates decoded once for all who look at the same one in turn."""

from __future__ import annotations

import functools

from cryptography import x509


@functools.lru_cache(maxsize=64)
def decoded(certificate: bytes) -> x509.Certificate:
    """A DER certificate, decoded; its extensions stay decoded with it.

    A renewal looks at the certificate to be renewed at the edge, at the gate and in its record.

    Raises:
        ValueError: it is none.
    """
    return x509.load_der_x509_certificate(certificate)
