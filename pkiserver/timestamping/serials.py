"""Serial numbers that are never given twice, without asking the database for each (RFC 3161 section 2.4.2).

A serial number is the number of a block, which the database gives to one process once, a counter within it, and random
octets for the rest of its length. A restart begins a new block, so that nothing need be remembered through a crash; a
restored backup or a cloned machine that repeats a block still differs in the random octets, drawn for each token.
"""

from __future__ import annotations

import os
from typing import Protocol

from pkiserver.foundation.errors import Unavailable
from pkiserver.store import timestamps
from pkiserver.store.database import Database

_BLOCK_OCTETS, _COUNTER_OCTETS = 5, 3
_FIXED = _BLOCK_OCTETS + _COUNTER_OCTETS
_PER_BLOCK = 1 << (8 * _COUNTER_OCTETS)
_MARK = 0x40 << (8 * (_BLOCK_OCTETS - 1))
"""Sets the second highest bit of the first octet: the number is positive, and as long as is wanted."""
_BLOCKS = _MARK
_AHEAD = _PER_BLOCK // 2
"""From here on the next block is fetched."""


class Serials(Protocol):
    """Where serial numbers come from."""

    def take(self, octets: int) -> bytes:
        """The content octets of a new positive INTEGER; raises :class:`Unavailable`."""


class SerialBlocks:
    """Gives out serial numbers from blocks that are this process's alone."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._block: bytes | None = None
        self._next: bytes | None = None
        self._counter = 0
        self._fetching = False

    async def run_due(self) -> None:
        """See to it that there is a block, and the next one in time; call it regularly. Raises :class:`Unavailable`."""
        if self._fetching or self._next is not None or (self._block is not None and self._counter < _AHEAD):
            return
        self._fetching = True
        try:
            number = await self._database.write(timestamps.next_block)
        finally:
            self._fetching = False
        if number >= _BLOCKS:
            raise Unavailable("all blocks of time-stamp serial numbers are used up")
        block = (_MARK | number).to_bytes(_BLOCK_OCTETS, "big")
        if self._block is None:
            self._block = block
        else:
            self._next = block

    def take(self, octets: int) -> bytes:
        """The content octets of a new positive INTEGER of exactly ``octets``, 8 to 20.

        Raises:
            Unavailable: the database has not given a block yet.
        """
        if self._counter >= _PER_BLOCK:
            self._block, self._next, self._counter = self._next, None, 0
        block, counter = self._block, self._counter
        if block is None:
            raise Unavailable("no block of serial numbers could be had from the database", retry_after=5)
        self._counter = counter + 1
        return block + counter.to_bytes(_COUNTER_OCTETS, "big") + os.urandom(octets - _FIXED)
