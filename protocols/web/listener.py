"""What the connections of one listener share."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from pkiserver.foundation.clock import Clock
from protocols.web.accesslog import AccessLogger
from protocols.web.encode import DateLine
from protocols.web.knownheads import KnownHeads
from protocols.web.limits import WebLimits
from protocols.web.metrics import WebMetrics
from protocols.web.requestid import RequestIds
from protocols.web.router import Router
from protocols.web.turn import Turn
from protocols.web.values import Route


class Listener:
    """Routes, limits, counts and clock of one listener. ``router`` may be replaced while serving."""

    def __init__(
        self, router: Router, limits: WebLimits, clock: Clock, metrics: WebMetrics, reactor: IReactorTime
    ) -> None:
        self.router = router
        self.limits = limits
        self.clock = clock
        self.metrics = metrics
        self.log = AccessLogger(limits.access_log)
        self.date = DateLine(clock)
        self.ids = RequestIds()
        self.known_heads = KnownHeads()
        self.turn = Turn(reactor)
        self._waiting: dict[str, int] = {}
        self.draining = False

    def is_busy(self, route: Route) -> bool:
        """Whether ``route`` has as many waiting handlers as it may: one slow route must not starve the others."""
        return self._waiting.get(route.name, 0) >= self.limits.running

    def started_waiting(self, route: Route) -> None:
        """A handler did not answer at once."""
        self._waiting[route.name] = self._waiting.get(route.name, 0) + 1
        self.metrics.running += 1

    def stopped_waiting(self, route: Route) -> None:
        """Such a handler is done."""
        self._waiting[route.name] -= 1
        self.metrics.running -= 1
