"""How an enrolment code looks, and what of it is stored.

A code is 130 random bits in Crockford's base 32, in groups that can be read over a telephone. Stored is only a keyed
hash, so that neither the database nor a backup of it lets anybody enrol.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

from pkiserver.foundation.secret import Secret

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PREFIX = "E"
GROUPS = 5
GROUP_LENGTH = 5
_FORM = re.compile(rf"{PREFIX}[{ALPHABET}]{{{GROUPS * GROUP_LENGTH + 1}}}")
_LOOKALIKES = str.maketrans("OILU", "011V")


def new_code(random_octets: Callable[[int], bytes]) -> Secret:
    """A fresh code of 130 bits: ``Exxxxx-xxxxx-xxxxx-xxxxx-xxxxx-x``."""
    number = int.from_bytes(random_octets(17), "big")
    letters = "".join(ALPHABET[(number >> (5 * place)) & 31] for place in range(GROUPS * GROUP_LENGTH + 1))
    groups = [letters[start : start + GROUP_LENGTH] for start in range(0, len(letters), GROUP_LENGTH)]
    return Secret(PREFIX + "-".join(groups))


def canonical(code: Secret) -> str | None:
    """The one spelling of a code, whatever case and dashes it was typed with; None where it cannot be one."""
    try:
        text = code.reveal_text()
    except UnicodeDecodeError:
        return None
    if len(text) > 64:
        return None
    text = text.upper().replace("-", "").replace(" ", "")
    text = text[:1] + text[1:].translate(_LOOKALIKES)
    return text if _FORM.fullmatch(text) else None


def keyed_hash(key: Secret, canonical_code: str) -> bytes:
    """HMAC-SHA-256 of a canonical code under the server's secret: what the store keeps."""
    return hmac.new(key.reveal(), canonical_code.encode(), hashlib.sha256).digest()
