"""Certificates named in settings: PEM text itself, or ``file:/absolute/path`` of a PEM file."""

from __future__ import annotations

from pathlib import Path

import attrs
from cryptography import x509

from pkiserver.foundation.tomlfile import Invalid

_BEGIN = "-----BEGIN CERTIFICATE-----"


@attrs.frozen
class PemCertificates:
    """One or more certificates. A file is read when it is needed, so that it can be replaced in place."""

    text: str

    ALLOWED = "PEM certificates, or file:/absolute/path of a file with them"

    @classmethod
    def parse(cls, text: str) -> PemCertificates:
        """From a setting.

        Raises:
            Invalid: neither PEM certificates nor a reference to an absolute path.
        """
        made = cls(text)
        if text.startswith("file:"):
            if not Path(text.removeprefix("file:")).is_absolute():
                raise Invalid("is not an absolute path", allowed=cls.ALLOWED)
        else:
            made.load()
        return made

    def load(self) -> tuple[x509.Certificate, ...]:
        """The certificates, in their order.

        Raises:
            Invalid: the file cannot be read, or holds no certificate.
        """
        try:
            octets = (
                Path(self.text.removeprefix("file:")).read_bytes()
                if self.text.startswith("file:")
                else self.text.encode()
            )
            found = tuple(x509.load_pem_x509_certificates(octets)) if _BEGIN.encode() in octets else ()
        except OSError as error:
            raise Invalid(f"{self.text.removeprefix('file:')}: {error.strerror}", allowed=self.ALLOWED) from error
        except ValueError as error:
            raise Invalid(f"holds no readable certificate: {error}", allowed=self.ALLOWED) from error
        if not found:
            raise Invalid("holds no certificate", allowed=self.ALLOWED)
        return found

    def __str__(self) -> str:
        return self.text
