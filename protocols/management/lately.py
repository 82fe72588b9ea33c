"""How often the same thing is worth an entry in the audit log: who came in, and who was turned away."""

from __future__ import annotations

from collections import OrderedDict

from pkiserver.foundation.clock import Clock

PAUSE = 60.0
"""Seconds between two entries about the same."""
MOST = 1024


class Lately:
    """Remembers, within bounds, what was noted lately."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._noted: OrderedDict[str, float] = OrderedDict()

    def worth_noting(self, what: str) -> bool:
        """Whether this was not noted within the last minute; it is now."""
        now = self._clock.monotonic()
        last = self._noted.get(what)
        if last is not None and now - last < PAUSE:
            return False
        self._noted[what] = now
        self._noted.move_to_end(what)
        if len(self._noted) > MOST:
            self._noted.popitem(last=False)
        return True
