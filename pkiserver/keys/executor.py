"""The threads in which slow key operations run, so that the reactor never waits for a token."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from pkiserver.keys.faults import FaultKind, KeyUnavailable

T = TypeVar("T")
MOST_WAITING = 2_000
"""Operations that may wait for one token; the next is answered "try later" (each holds its request in memory)."""


def running_reactor() -> Any:
    """Twisted's reactor, imported late so that a command may install another first."""
    from twisted.internet import reactor

    return reactor


class _DaemonThread(Thread):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, daemon=True, **named)


class Executor:
    """A bounded number of threads for one provider, a bounded queue before them, a deadline on each wait."""

    def __init__(self, name: str, *, threads: int, deadline: float, reactor: Any = None) -> None:
        self.name = name
        self.reactor = reactor or running_reactor()
        self._deadline = deadline
        self._waiting = 0
        self._abandoned = 0
        self._threads = threads
        # One thread more than signs: recovery and listing must not queue behind a signature that never ends.
        self._pool = ThreadPool(minthreads=0, maxthreads=threads + 1, name=f"keys-{name}")
        self._pool.threadFactory = _DaemonThread  # a hung module must not keep the process from ending
        self._pool.start()

    async def run(self, work: Callable[[], T], *, deadline: float | None = None, patient: bool = False) -> T:
        """Run ``work`` in a thread and wait for it, at most ``deadline`` seconds (``patient``: as long as it takes).

        Raises:
            KeyUnavailable: TOKEN_BUSY; too many wait, or the token does not answer in time.
            CancelledError: whoever asked has left; that says nothing about the token.
        """
        if self._abandoned >= self._threads and not patient:
            raise self._busy("does not answer")
        if self._waiting >= MOST_WAITING:
            raise self._busy(f"{MOST_WAITING} operations wait already")
        self._waiting += 1
        abandoned = False

        def finished() -> None:
            self._waiting -= 1
            if abandoned:
                self._abandoned -= 1

        def counted() -> T:
            try:
                return work()
            finally:
                self.reactor.callFromThread(finished)

        waiting = deferToThreadPool(self.reactor, self._pool, counted)
        if not patient:
            waiting.addTimeout(deadline or self._deadline, self.reactor)
        try:
            return await waiting
        except DeferredTimeout as error:
            # The thread may still sit in the module; until it comes back it counts against the next caller.
            abandoned = True
            self._abandoned += 1
            raise self._busy(f"did not answer within {deadline or self._deadline:g} s") from error

    async def close(self) -> None:
        """End the threads; those that never return from a module are left behind (they are daemons)."""
        if self._abandoned:
            self._pool.joined = True
            return
        self._pool.stop()

    def _busy(self, why: str) -> KeyUnavailable:
        return KeyUnavailable.because(self.name, FaultKind.TOKEN_BUSY, why)
