"""How the reactor goes round its connections.

Twisted makes each event a call in a log context of its own, named after the connection, which nothing here reads: it
costs as much as receiving the octets does. Octets to be read, which is what nearly all events are, go to their
connection at once here; everything else goes Twisted's way.

It can also say when it has nothing to do. A thread that is given work while the reactor is busy takes the interpreter
from it and gives it back dozens of times, which costs both more than the work does: what can wait a little waits for
that moment (:func:`idle_moments`).
"""

from __future__ import annotations

from collections.abc import Callable
from select import EPOLLIN
from time import monotonic
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger
from twisted.python.log import callWithLogger

WITHIN = 0.005
"""Seconds that what waits for an idle moment waits at most, and the turn of the reactor that runs then."""
_log = Logger()


def poll_straight(reactor: Any = _reactor) -> None:
    """Let the reactor call its connections without a log context. Another reactor than epoll's stays as it is."""
    if isinstance(reactor, EPollReactor):
        reactor.doIteration = _Round(reactor)  # type: ignore[method-assign]


def idle_moments(reactor: Any = _reactor) -> Callable[[Callable[[], None]], None] | None:
    """What calls its argument as soon as the reactor has nothing else to do, and :data:`WITHIN` at the latest.

    To be called on the reactor's thread; None for a reactor that goes round its connections in another way.
    """
    turn = reactor.doIteration
    return turn.when_idle if isinstance(turn, _Round) else None


class _Round:
    """One turn of the reactor: what was EPollReactor.doPoll."""

    def __init__(self, reactor: Any) -> None:
        self._poll = reactor._poller.poll  # noqa: SLF001 -- documented instance variables, which doPoll uses
        self._selectables = reactor._selectables  # noqa: SLF001
        self._disconnect = reactor._disconnectSelectable  # noqa: SLF001
        self._read_or_write = reactor._doReadOrWrite  # noqa: SLF001
        self._waiting: list[Callable[[], None]] = []
        self._until = 0.0

    def when_idle(self, call: Callable[[], None]) -> None:
        """Call it in an idle moment, with all that waits for one."""
        if not self._waiting:
            self._until = monotonic() + WITHIN
        self._waiting.append(call)

    def __call__(self, timeout: float | None) -> None:
        selectables = self._selectables
        looking = bool(self._waiting)  # then without a sleep: what is called may give the reactor something to do
        if looking and monotonic() >= self._until:
            self._call_waiting()
        events = self._poll(0 if looking else -1 if timeout is None else timeout, len(selectables))
        if self._waiting and timeout != 0 and not events:
            self._call_waiting()
        for number, event in events:
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

    def _call_waiting(self) -> None:
        calls, self._waiting = self._waiting, []
        for call in calls:
            try:
                call()
            except Exception:  # noqa: BLE001 -- as above
                _log.failure("what waited for an idle moment failed")

    def _end(self, selectable: Any, reason: object) -> None:
        try:
            self._disconnect(selectable, reason, True)
        except BaseException:  # noqa: BLE001 -- as above
            _log.failure("a connection failed at its end")
