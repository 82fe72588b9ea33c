"""A reference to a secret, as a setting."""

from __future__ import annotations

import attrs

from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.keys.secrets_by_reference import SCHEMES, check_reference, read_secret


@attrs.frozen
class SecretReference:
    """``file:/path``, ``env:NAME`` or ``credential:NAME``; every node needs it."""

    text: str

    ALLOWED = ", ".join(SCHEMES)

    @classmethod
    def parse(cls, text: str) -> SecretReference:
        """From a setting; raises :class:`Invalid`."""
        try:
            check_reference(text)
        except ValueError:
            raise Invalid("is no reference to a secret", allowed=cls.ALLOWED) from None
        return cls(text)

    def read(self) -> Secret:
        """The secret; raises :class:`SecretUnreadable`."""
        return read_secret(self.text)

    def __str__(self) -> str:
        return self.text
