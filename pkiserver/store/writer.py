"""Group commit: one thread writes for the whole process, and what waits for the disk shares the wait.

The thread gathers what is queued into one transaction, and what is queued while that waits for another process's or
runs. Where the reactor says when it is idle, the thread is given nothing before: what a busy reactor asks for comes to
it together. When a unit of work fails, the transaction is rolled back, the rest is tried again without it, and the
failed one runs alone, so that its error is its own and nobody else's. No unit is answered before the commit that holds
it has returned.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
from sqlalchemy import Connection, Engine
from twisted.internet.defer import Deferred

from pkiserver.foundation.errors import Defect, Unavailable
from pkiserver.store.failures import Kind, as_domain_error, kind_of

BATCH_LIMIT = 256
"""Units of work in one transaction, so that one commit's wait stays short."""
RETRIES = 8
"""How often a transaction that the engine chose to lose is tried again."""
SPLITS = 3
"""How many failing units are taken out of a batch before the rest of it runs one by one."""
_WRITING = "pkiserver.writing"

Work = Callable[[Connection], Any]
WhenIdle = Callable[[Callable[[], None]], None]
"""Calls its argument, on the thread of those who submit, in a moment when they have nothing else to do."""


class Participant(Protocol):
    """Something that follows each transaction of the writer; called on the writer thread."""

    def begun(self, connection: Connection) -> None:
        """A transaction began; nothing of an earlier one counts."""

    def flush(self, connection: Connection) -> None:
        """All work is done; write what was gathered. An error undoes the transaction."""

    def committed(self) -> None:
        """The transaction is durable."""

    def undone(self) -> None:
        """The transaction was rolled back, or its outcome is unknown."""


@attrs.frozen
class Job:
    """One unit of work and the token by which its owner knows it again."""

    work: Work
    token: Any


@attrs.frozen
class Outcome:
    """What became of a job: ``value``, or ``error`` where that is not None."""

    token: Any
    value: Any
    error: Exception | None


@attrs.define
class WriterCounts:
    """Counts since the start, for metrics; written by the writer thread only."""

    transactions: int = 0
    jobs: int = 0
    failed_jobs: int = 0
    retries: int = 0
    reconnects: int = 0


class _WorkFailed(Exception):
    """A unit of a batch raised; ``index`` says which."""

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(index)
        self.index = index
        self.error = error


class _CommitFailed(Exception):
    """The transaction could not be begun, flushed or committed."""

    def __init__(self, error: Exception, *, committing: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.committing = committing


def require_writing(connection: Connection) -> None:
    """Raise :class:`Defect` unless the connection is inside a transaction of a writer."""
    if _WRITING not in connection.info:
        raise Defect("this may only be done inside Database.write")


class Writer:
    """The thread, its queue and its connection. Knows no reactor: outcomes go to ``deliver`` on the writer thread.

    ``outdated`` is asked of what an error says of the connection whether a new one would not meet it; ``when_idle``,
    where it is given, says when the thread may be given work.
    """

    def __init__(
        self,
        engine: Engine,
        deliver: Callable[[Sequence[Outcome]], None],
        *,
        limit: int,
        outdated: Callable[[Exception], bool] = lambda _error: False,
        when_idle: WhenIdle | None = None,
    ) -> None:
        self._engine = engine
        self._deliver = deliver
        self._outdated = outdated
        self._when_idle = when_idle
        self._gathered: list[Job] = []
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._limit = limit
        self._participants: tuple[Participant, ...] = ()
        self._connection: Connection | None = None
        self._closing = False
        self._ended = False
        self.counts = WriterCounts()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)

    def start(self) -> None:
        """Begin to serve the queue."""
        self._thread.start()

    def join(self, participant: Participant) -> None:
        """Let ``participant`` follow every transaction from the next one on; the last to join is flushed first."""
        self._participants = (*self._participants, participant)

    @property
    def waiting(self) -> int:
        """Jobs that wait for their transaction."""
        return self._queue.qsize() + len(self._gathered)

    def submit(self, job: Job) -> None:
        """Queue a job; always on the same thread.

        Raises:
            Unavailable: the queue is full or the writer is closing.
        """
        if self._closing:
            raise Unavailable("the database is closing")
        if self.waiting >= self._limit:
            raise Unavailable("too many writes are waiting for the database", retry_after=2)
        if self._when_idle is None:
            self._queue.put(job)
            return
        if not self._gathered:
            self._when_idle(self._hand_over)
        self._gathered.append(job)

    def _hand_over(self) -> None:
        jobs, self._gathered = self._gathered, []
        for job in jobs:
            self._queue.put(job)

    def finish(self) -> None:
        """Take no more jobs; on the thread that submitted them."""
        if not self._closing:
            self._closing = True
            self._hand_over()
            self._queue.put(None)

    def close(self) -> None:
        """Finish what is queued, then end the thread; blocks the caller meanwhile."""
        self.finish()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended:
            job = self._queue.get()
            if job is None:
                break
            batch = [job]
            try:
                outcomes = self._settle(batch)
            except Exception as error:  # noqa: BLE001 - a defect here must not end the only writer
                self._disconnect()
                defect = Defect(f"the database writer failed: {error!r}")
                defect.__cause__ = error
                outcomes = [Outcome(job.token, None, defect) for job in batch]
            self.counts.jobs += len(outcomes)
            self.counts.failed_jobs += sum(outcome.error is not None for outcome in outcomes)
            self._deliver(outcomes)
        self._disconnect()

    def _joined(self, batch: list[Job]) -> bool:
        """Let what has been queued meanwhile into the batch; whether anything had, and there was room."""
        before = len(batch)
        while len(batch) < BATCH_LIMIT and not self._ended and not self._queue.empty():
            job = self._queue.get()  # nobody else takes from it
            if job is None:
                self._ended = True
            else:
                batch.append(job)
        return len(batch) > before

    def _settle(self, batch: list[Job]) -> list[Outcome]:
        """Run the jobs, and those that are queued before the commit, in as few transactions as failures permit."""
        together, apart = batch, list[Job]()
        while together and len(apart) < SPLITS:
            try:
                outcomes = self._retrying(together, growing=together is batch)
            except (_WorkFailed, _CommitFailed) as failure:
                if kind_of(failure.error) is not Kind.OWN:
                    return _refuse(together + apart, failure)
                if len(together) == 1:
                    return _refuse(together, failure) + self._one_by_one(apart)
                if isinstance(failure, _CommitFailed):
                    break  # something only the flush or the commit found: each alone shows whose it is
                together = list(together)
                apart.append(together.pop(failure.index))
            else:
                return outcomes + self._one_by_one(apart)
        return self._one_by_one(together + apart)

    def _one_by_one(self, jobs: Sequence[Job]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for job in jobs:
            try:
                outcomes += self._retrying([job])
            except (_WorkFailed, _CommitFailed) as failure:
                outcomes += _refuse([job], failure)
        return outcomes

    def _retrying(self, jobs: list[Job], *, growing: bool = False) -> list[Outcome]:
        """One transaction, tried again where the engine says so, and once on a new connection."""
        reconnected = False
        attempt = 0
        while True:
            try:
                return self._transact(jobs, growing=growing)
            except (_WorkFailed, _CommitFailed) as failure:
                kind = kind_of(failure.error)
                if kind is Kind.AGAIN and attempt < RETRIES:
                    attempt += 1
                    self.counts.retries += 1
                    time.sleep(random.uniform(0, 0.002 * 2**attempt))  # noqa: S311 - spreads retries, guards nothing
                elif not reconnected and self._is_worth_another(kind, failure):
                    reconnected = True
                    self.counts.reconnects += 1
                else:
                    raise

    def _is_worth_another(self, kind: Kind, failure: _WorkFailed | _CommitFailed) -> bool:
        """Whether a new connection may do what this one did not."""
        if kind is Kind.LOST:
            return not getattr(failure, "committing", False)
        return kind is Kind.AWAY and self._outdated(failure.error)

    def _transact(self, jobs: list[Job], *, growing: bool) -> list[Outcome]:
        """One transaction; where it is ``growing``, jobs that are queued before its commit are done in it as well."""
        committing = False
        try:
            connection = self._begin()
        except Exception as error:
            self._disconnect()
            raise _CommitFailed(error, committing=False) from error
        try:
            outcomes: list[Outcome] = []
            while len(outcomes) < len(jobs) or (growing and self._joined(jobs)):
                job = jobs[len(outcomes)]
                outcomes.append(Outcome(job.token, self._work(connection, len(outcomes), job), None))
            for participant in reversed(self._participants):
                participant.flush(connection)
            committing = True
            connection.commit()
        except _WorkFailed as failure:
            self._undo(connection, failure.error)
            raise
        except Exception as error:
            self._undo(connection, error)
            raise _CommitFailed(error, committing=committing) from error
        connection.info.pop(_WRITING, None)
        self.counts.transactions += 1
        for participant in self._participants:
            participant.committed()
        return outcomes

    @staticmethod
    def _work(connection: Connection, index: int, job: Job) -> Any:
        try:
            return job.work(connection)
        except Exception as error:
            raise _WorkFailed(index, error) from error

    def _begin(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        connection = self._connection
        connection.begin()
        connection.info[_WRITING] = True
        for participant in self._participants:
            participant.begun(connection)
        return connection

    def _undo(self, connection: Connection, error: Exception) -> None:
        try:
            for participant in self._participants:
                participant.undone()
            if kind_of(error) in {Kind.LOST, Kind.AWAY}:
                self._disconnect()  # a session may keep for life what makes it useless, such as that it only reads
                return
            connection.info.pop(_WRITING, None)
            connection.rollback()
        except Exception:  # noqa: BLE001 - a connection that cannot roll back is thrown away, which rolls back
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.invalidate()
            connection.close()
        except Exception:  # noqa: BLE001, S110 - the connection is being thrown away
            pass
        self._engine.dispose()


def _refuse(jobs: Sequence[Job], failure: _WorkFailed | _CommitFailed) -> list[Outcome]:
    committing = isinstance(failure, _CommitFailed) and failure.committing
    shown = as_domain_error(failure.error, committing=committing)
    return [Outcome(job.token, None, shown) for job in jobs]


def deliver(outcomes: Sequence[Outcome]) -> None:
    """Tell each caller, whose Deferred is its job's token, what became of it."""
    for outcome in outcomes:
        waiting: Deferred[Any] = outcome.token
        if waiting.called:
            continue  # its caller was cancelled
        if outcome.error is None:
            waiting.callback(outcome.value)
        else:
            waiting.errback(outcome.error)
