"""How often somebody unknown is worth an entry in the audit log."""

from __future__ import annotations

from collections import OrderedDict

from pkiserver.foundation.clock import Clock

PAUSE = 60.0
"""Seconds between two entries about the same address."""
MOST = 1024


class Strangers:
    """Remembers, within bounds, which addresses were noted lately."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._noted: OrderedDict[str, float] = OrderedDict()

    def worth_noting(self, address: str) -> bool:
        """Whether this address was not noted within the last minute; it is now."""
        now = self._clock.monotonic()
        last = self._noted.get(address)
        if last is not None and now - last < PAUSE:
            return False
        self._noted[address] = now
        self._noted.move_to_end(address)
        if len(self._noted) > MOST:
            self._noted.popitem(last=False)
        return True
