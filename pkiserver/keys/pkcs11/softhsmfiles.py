"""Why SoftHSM may not do its work: it says nothing of files that it cannot read or write."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pkiserver.keys.settings import TokenSettings

_ROOM = 64 * 1024
"""Octets; a key takes a few thousand."""
_TOKENS = re.compile(r"^\s*directories\.tokendir\s*=\s*(?P<place>.*?)\s*$", re.MULTILINE)


def with_reason(text: str, settings: TokenSettings) -> str:
    """What the module said, with the first of its files that this account cannot read, if there is one. Blocking."""
    if settings.softhsm_config is None:
        return text
    try:
        for place in _needed(settings.softhsm_config):
            with place.open("rb"):
                pass
    except OSError as error:
        return f"{text} ({error.filename}: {error.strerror})"
    return text


def _needed(config: Path) -> Iterator[Path]:
    """Its configuration, and every file of every token; raises OSError for a folder that cannot be looked into."""
    yield config
    folder = _folder(config)
    if folder is not None:
        for token in folder.iterdir():
            if token.is_dir():
                yield from token.iterdir()


def _folder(config: Path) -> Path | None:
    """Where its tokens are."""
    found = _TOKENS.search(config.read_text(errors="replace"))
    return None if found is None else Path(found["place"])


def lack_of_room(settings: TokenSettings) -> str:
    """That there is no room left for a new key, where that is so; empty elsewhere. It fails as a lost token does."""
    with suppress(OSError):
        folder = None if settings.softhsm_config is None else _folder(settings.softhsm_config)
        if folder is not None and shutil.disk_usage(folder).free < _ROOM:
            return f"no room is left under {folder}"
    return ""
