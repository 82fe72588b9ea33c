"""Sharing the reactor: heavy pieces of work (a lint is about a millisecond) run one to a reactor turn.

A group commit wakes many certificates at once; without this they would keep the reactor from everybody else together.
"""

from __future__ import annotations

from collections import deque
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


class Turns:
    """First come, first served; who comes alone does not wait."""

    def __init__(self, reactor: IReactorTime | None = None) -> None:
        self._reactor = reactor
        self._waiting: deque[Deferred[None]] = deque()
        self._taken = False

    async def wait(self) -> None:
        """Return when it is the caller's turn; it then has the reactor until it next awaits."""
        if self._taken:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting
            return
        self._taken = True
        self._later()

    def _later(self) -> None:
        if self._reactor is None:
            from twisted.internet import reactor

            self._reactor = cast("IReactorTime", reactor)
        cast("Any", self._reactor).callLater(0, self._next)

    def _next(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.called:  # its owner may have given up
                self._later()
                waiting.callback(None)
                return
        self._taken = False
