"""How the reactor goes round its connections.

Twisted makes each event a call in a log context of its own, named after the connection, which nothing here reads: it
costs as much as receiving the octets does. Octets to be read, which is what nearly all events are, go to their
connection at once here; everything else goes Twisted's way.
"""

from __future__ import annotations

from select import EPOLLIN
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger
from twisted.python.log import callWithLogger

_log = Logger()


def poll_straight(reactor: Any = _reactor) -> None:
    """Let the reactor call its connections without a log context. Another reactor than epoll's stays as it is."""
    if isinstance(reactor, EPollReactor):
        reactor.doIteration = _Round(reactor)  # type: ignore[method-assign]


class _Round:
    """One turn of the reactor: what was EPollReactor.doPoll."""

    def __init__(self, reactor: Any) -> None:
        self._poll = reactor._poller.poll  # noqa: SLF001 -- documented instance variables, which doPoll uses
        self._selectables = reactor._selectables  # noqa: SLF001
        self._disconnect = reactor._disconnectSelectable  # noqa: SLF001
        self._read_or_write = reactor._doReadOrWrite  # noqa: SLF001

    def __call__(self, timeout: float | None) -> None:
        selectables = self._selectables
        for number, event in self._poll(-1 if timeout is None else timeout, len(selectables)):
            selectable = selectables.get(number)
            if selectable is None:
                continue  # an earlier event of this turn closed it
            if event != EPOLLIN:
                callWithLogger(selectable, self._read_or_write, selectable, number, event)  # type: ignore[no-untyped-call]
                continue
            try:
                over = selectable.doRead()
            except BaseException as error:  # noqa: BLE001 -- the reactor outlives every connection, as it does Twisted's way
                _log.failure("a connection failed while it was read")
                over = error
            if over:
                self._end(selectable, over)

    def _end(self, selectable: Any, reason: object) -> None:
        try:
            self._disconnect(selectable, reason, True)
        except BaseException:  # noqa: BLE001 -- as above
            _log.failure("a connection failed at its end")
