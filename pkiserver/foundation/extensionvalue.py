"""One extension of a certificate, a request, a CRL or an OCSP answer: its value, or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

from cryptography import x509

T = TypeVar("T", bound=x509.ExtensionType)


class Extended(Protocol):
    """Whatever carries X.509 extensions."""

    @property
    def extensions(self) -> x509.Extensions:
        """All of them."""


def extension_value(carrier: Extended, kind: type[T]) -> T | None:
    """The value of the extension of that kind; None where there is none.

    Raises:
        ValueError: the extensions cannot be decoded.
        x509.DuplicateExtension: one of them is there twice.
    """
    try:
        return carrier.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def value_among(extensions: Iterable[x509.Extension[Any]], kind: type[T]) -> T | None:
    """The same of extensions that nothing carries yet."""
    for one in extensions:
        value = one.value
        if type(value) is kind:  # not isinstance: the kinds are abstract classes' children, of which asking is slow
            return value
    return None
