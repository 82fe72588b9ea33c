"""Request IDs: 64 random bits as 16 hexadecimal digits, drawn in batches because a system call each is felt."""

from __future__ import annotations

import os
from collections.abc import Callable

_BATCH = 256
_DIGITS = 16


class RequestIds:
    """A source of request IDs."""

    def __init__(self, random: Callable[[int], bytes] = os.urandom) -> None:
        self._random = random
        self._pool = ""
        self._at = 0

    def next(self) -> str:
        """A fresh ID."""
        at = self._at
        if at >= len(self._pool):
            self._pool = self._random(_BATCH * _DIGITS // 2).hex()
            at = 0
        self._at = at + _DIGITS
        return self._pool[at : self._at]
