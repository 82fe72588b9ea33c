"""The threads in which slow key operations run, so that the reactor never waits for a token."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
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


class _Operation:
    """One operation on its way through a thread, and what came of it."""

    __slots__ = ("due", "outcome", "overdue", "waiting", "work")

    def __init__(self, work: Callable[[], Any], due: float) -> None:
        self.work = work
        self.due = due
        self.waiting: Deferred[Any] = Deferred()
        self.overdue = False
        """The deadline has passed; whoever waited was told."""
        self.outcome: Any = None

    def perform(self) -> None:
        """Do the work; in the thread."""
        if self.waiting.called:
            return  # nobody waits for it any more
        try:
            self.outcome = self.work()
        except BaseException:  # noqa: BLE001 - the thread outlives every operation, whoever waits is told
            self.outcome = Failure()  # type: ignore[no-untyped-call]

    def tell(self) -> None:
        """Tell who waits, unless they left or were told already; in the reactor's thread."""
        if not self.overdue:
            self.waiting.callback(self.outcome)  # a Failure goes to the errbacks


class Executor:
    """A bounded number of threads for one provider, a bounded queue before them, a deadline on each wait.

    Operations go to the threads and come back in batches: a thread that has more to do does not wait for the reactor,
    and the reactor is told once of all that has ended since it was told last.
    """

    def __init__(self, name: str, *, threads: int, deadline: float, reactor: Any = None) -> None:
        self.name = name
        self.reactor = reactor or running_reactor()
        self._deadline = deadline
        self._abandoned = 0
        self._threads = threads
        self._queue: SimpleQueue[_Operation | None] = SimpleQueue()
        self._workers: list[Thread] = []
        self._under_way: dict[_Operation, None] = {}
        self._ended: deque[_Operation] = deque()
        self._told = False
        self._watch: IDelayedCall | None = None
        # Recovery and listing must not queue behind a signature that never ends.
        self._pool = ThreadPool(minthreads=0, maxthreads=threads + 1, name=f"keys-{name}")
        self._pool.threadFactory = _DaemonThread  # a hung module must not keep the process from ending
        self._pool.start()

    def run(self, work: Callable[[], T]) -> Deferred[T]:
        """Run ``work`` in a thread; what comes of it, after the executor's deadline at the latest.

        Raises:
            KeyUnavailable: TOKEN_BUSY; too many wait, or the token does not answer in time.
            CancelledError: whoever asked has left; that says nothing about the token.
        """
        if self._abandoned >= self._threads:
            raise self._busy("does not answer")
        if len(self._under_way) >= MOST_WAITING:
            raise self._busy(f"{MOST_WAITING} operations wait already")
        operation = _Operation(work, self.reactor.seconds() + self._deadline)
        self._under_way[operation] = None
        if self._watch is None:
            self._watch = self.reactor.callLater(self._deadline, self._expire)
        if len(self._workers) < min(self._threads, len(self._under_way)):
            worker = Thread(target=self._serve, name=f"keys-{self.name}-{len(self._workers)}", daemon=True)
            self._workers.append(worker)
            worker.start()
        self._queue.put(operation)
        return operation.waiting

    async def run_aside(self, work: Callable[[], T], *, deadline: float | None = None) -> T:
        """Run ``work`` beside what waits, in a thread of its own, for as long as it takes or ``deadline`` seconds.

        Raises:
            KeyUnavailable: TOKEN_BUSY; not done by the deadline.
        """
        waiting = deferToThreadPool(self.reactor, self._pool, work)
        if deadline is not None:
            waiting.addTimeout(deadline, self.reactor)
        try:
            return await waiting
        except DeferredTimeout as error:
            raise self._busy(f"did not answer within {deadline:g} s") from error

    async def close(self) -> None:
        """End the threads; those that never return from a module are left behind (they are daemons)."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._abandoned:
            self._pool.joined = True
            return
        for _ in self._workers:
            self._queue.put(None)
        for worker in self._workers:
            worker.join()
        self._pool.stop()

    def _serve(self) -> None:
        """What each thread does."""
        while (operation := self._queue.get()) is not None:
            operation.perform()
            self._ended.append(operation)
            if not self._told:
                self._told = True
                self.reactor.callFromThread(self._tell)

    def _tell(self) -> None:
        # First the flag: a thread that finds it set has appended already, and is found below.
        self._told = False
        while self._ended:
            operation = self._ended.popleft()
            del self._under_way[operation]
            self._abandoned -= operation.overdue
            operation.tell()

    def _expire(self) -> None:
        """Tell those who have waited too long; a thread may still sit in the module and counts against the next."""
        self._watch = None
        now = self.reactor.seconds()
        for operation in list(self._under_way):
            if operation.due > now:
                self._watch = self.reactor.callLater(operation.due - now, self._expire)
                return
            if not operation.overdue:
                operation.overdue = True
                self._abandoned += 1
                if not operation.waiting.called:
                    operation.waiting.errback(self._busy(f"did not answer within {self._deadline:g} s"))

    def _busy(self, why: str) -> KeyUnavailable:
        return KeyUnavailable.because(self.name, FaultKind.TOKEN_BUSY, why)
