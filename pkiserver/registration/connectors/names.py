"""User names: how one is written before anybody is asked, and how the other side spells whom it found.

Directories and databases compare names without case, some without accents, widths or spaces at the end: whoever may be
called in many ways has one name all the same, or they would have as many seats and certificates as spellings.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from pkiserver.registration.connectors.values import MAX_NAME

_WIDE_AND_NARROW = ("<wide> ", "<narrow> ")


def prepared(name: str) -> str:
    """A name as it is asked for: full-width and half-width forms as plain ones, composed (RFC 8265, 3.4.1)."""
    return unicodedata.normalize("NFC", "".join(map(_plain_width, name)))


def spelled(typed: str, known: Iterable[str]) -> str:
    """The name among ``known`` that ``typed`` means, which may be written otherwise; ``typed`` where none is."""
    names = [one for one in known if 0 < len(one) <= MAX_NAME and one.isprintable()]
    if typed in names:
        return typed
    return next((one for one in names if _folded(one) == _folded(typed)), typed)


def _plain_width(char: str) -> str:
    found = unicodedata.decomposition(char)
    if not found.startswith(_WIDE_AND_NARROW):
        return char
    return "".join(chr(int(code, 16)) for code in found.split()[1:])


def _folded(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name.casefold())
    return " ".join("".join(one for one in letters if not unicodedata.combining(one)).split())
