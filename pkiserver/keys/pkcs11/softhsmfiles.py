"""Why SoftHSM may see no token: it says nothing of files that it cannot read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pkiserver.keys.settings import TokenSettings

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
    found = _TOKENS.search(config.read_text(errors="replace"))
    if found is not None:
        for token in Path(found["place"]).iterdir():
            if token.is_dir():
                yield from token.iterdir()
