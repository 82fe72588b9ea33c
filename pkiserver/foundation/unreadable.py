"""What ``cryptography`` raises for certificates, requests and names that somebody else made.

It does so at once, or only when a part is first looked at: a name or an extension is decoded on first use.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""For ``except``. TypeError is a BIT STRING in a name; UnsupportedAlgorithm a key of a kind that nobody knows."""
