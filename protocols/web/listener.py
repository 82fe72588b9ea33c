"""What the connections of one listener share."""

from __future__ import annotations

from pkiserver.foundation.clock import Clock
from protocols.web.accesslog import AccessLogger
from protocols.web.encode import DateLine
from protocols.web.limits import WebLimits
from protocols.web.metrics import WebMetrics
from protocols.web.requestid import RequestIds
from protocols.web.router import Router


class Listener:
    """Routes, limits, counts and clock of one listener. ``router`` may be replaced while serving."""

    def __init__(self, router: Router, limits: WebLimits, clock: Clock, metrics: WebMetrics) -> None:
        self.router = router
        self.limits = limits
        self.clock = clock
        self.metrics = metrics
        self.log = AccessLogger(limits.access_log)
        self.date = DateLine(clock)
        self.ids = RequestIds()
        self.running = 0
        self.draining = False

    def started_waiting(self) -> None:
        """A handler did not answer at once."""
        self.running += 1
        self.metrics.running += 1

    def stopped_waiting(self) -> None:
        """Such a handler is done."""
        self.running -= 1
        self.metrics.running -= 1
