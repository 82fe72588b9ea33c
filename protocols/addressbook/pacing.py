"""Answering that nobody was found at set times, so that the time tells nothing about why.

Somebody who opted out, whose certificates are not published or are revoked, or who does not exist, and a question that
is not allowed, cost different work. An answer that has no person in it leaves at a whole multiple of a short time after
the question; what the work took disappears in that.
"""

from __future__ import annotations

import math

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from pkiserver.foundation.clock import Clock


@attrs.frozen
class Pace:
    """Waits for such a moment. ``seconds`` is the time between two of them."""

    reactor: IReactorTime
    clock: Clock
    seconds: float

    def begin(self) -> float:
        """The time of the question."""
        return self.clock.monotonic()

    def left(self, begun: float) -> float:
        """How long it is from now to the next moment, in seconds."""
        taken = self.clock.monotonic() - begun
        return (math.floor(taken / self.seconds) + 1) * self.seconds - taken

    async def nobody(self, begun: float) -> None:
        """Return at the next moment after a question that was asked at ``begun``."""
        await deferLater(self.reactor, self.left(begun))
