"""Certificates and keys named in settings: PEM text, or a PEM file as ``file:/absolute/path`` or by its path alone."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import attrs
from cryptography import x509

from pkiserver.foundation.tomlfile import Invalid

_BEGIN = "-----BEGIN CERTIFICATE-----"


@lru_cache(maxsize=32)
def _certificates(octets: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in PEM text, none where there is none; raises :class:`ValueError`."""
    return tuple(x509.load_pem_x509_certificates(octets)) if _BEGIN.encode() in octets else ()


@attrs.frozen
class PemCertificates:
    """One or more certificates. A file is read when it is needed, so that it can be replaced in place."""

    text: str

    ALLOWED = "PEM certificates, or file:/absolute/path of a file with them"

    @property
    def path(self) -> Path | None:
        """The file, where it is one."""
        return _named(self.text) if self.text.startswith(("file:", "/")) else None

    @classmethod
    def parse(cls, text: str) -> PemCertificates:
        """From a setting.

        Raises:
            Invalid: neither PEM certificates nor a reference to an absolute path.
        """
        made = cls(text)
        if made.path is None:
            made.load()
        elif not made.path.is_absolute():
            raise Invalid("is not an absolute path", allowed=cls.ALLOWED)
        return made

    def load(self) -> tuple[x509.Certificate, ...]:
        """The certificates, in their order.

        Raises:
            Invalid: the file cannot be read, or holds no certificate.
        """
        try:
            octets = self.text.encode() if self.path is None else self.path.read_bytes()
            found = _certificates(octets)
        except OSError as error:
            raise Invalid(f"{self.path}: {error.strerror}", allowed=self.ALLOWED) from error
        except ValueError as error:
            raise Invalid(f"holds no readable certificate: {error}", allowed=self.ALLOWED) from error
        if not found:
            raise Invalid("holds no certificate", allowed=self.ALLOWED)
        return found

    def __str__(self) -> str:
        return self.text


@attrs.frozen
class PemFile:
    """A PEM file that is read when it is needed, so that it can be replaced in place."""

    text: str

    ALLOWED = "file:/absolute/path, or /absolute/path"

    @classmethod
    def parse(cls, text: str) -> PemFile:
        """From a setting; raises :class:`Invalid` where it is no absolute path."""
        made = cls(text)
        if not made.path.is_absolute():
            raise Invalid("is not an absolute path", allowed=cls.ALLOWED)
        return made

    @property
    def path(self) -> Path:
        """Where it is."""
        return _named(self.text)

    def __str__(self) -> str:
        return self.text


def _named(text: str) -> Path:
    return Path(text.removeprefix("file:"))
