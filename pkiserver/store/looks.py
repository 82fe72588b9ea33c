"""Looks that wait together: what a busy reactor wants to know of the database costs one change of threads.

A thread, its snapshot and its handing over cost more than finding a row by its key does, and each of them takes the
interpreter from the reactor. So short looks wait until the reactor is idle, and one thread does them in one snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from pkiserver.foundation.errors import Defect, PkiError
from pkiserver.store.writer import Job, Outcome, WhenIdle, Work, deliver

Read = Callable[[Callable[[Connection], list[Outcome]]], list[Outcome]]
"""Runs its argument in a snapshot; raises :class:`Unavailable` and :class:`Defect`."""


class Looks:
    """The looks of one process. ``read`` is called on a thread of ``pool``, everything else on the reactor's."""

    def __init__(self, reactor: Any, pool: ThreadPool, read: Read, when_idle: WhenIdle) -> None:
        self._reactor = reactor
        self._pool = pool
        self._read = read
        self._when_idle = when_idle
        self._waiting: list[Job] = []

    def add(self, work: Work) -> Deferred[Any]:
        """What ``work`` returns or raises, once it has been run."""
        answer: Deferred[Any] = Deferred()
        if not self._waiting:
            self._when_idle(self.hand_over)
        self._waiting.append(Job(work, answer))
        return answer

    def hand_over(self) -> None:
        """Let a thread do what waits."""
        jobs = [job for job in self._waiting if not job.token.called]  # whoever was cancelled wants none
        self._waiting = []
        if not jobs:
            return

        def failed(failure: Failure) -> None:
            deliver(_all(jobs, Defect(f"a look failed: {failure.value!r}")))

        deferToThreadPool(self._reactor, self._pool, self._look, jobs).addCallbacks(deliver, failed)

    def _look(self, jobs: list[Job]) -> list[Outcome]:
        try:
            return self._read(lambda connection: [_outcome(connection, job) for job in jobs])
        except Defect as error:  # the database refused a statement: each alone shows whose it is
            if len(jobs) == 1:
                return _all(jobs, error)
            return [outcome for job in jobs for outcome in self._look([job])]
        except PkiError as error:
            return _all(jobs, error)


def _outcome(connection: Connection, job: Job) -> Outcome:
    try:
        return Outcome(job.token, job.work(connection), None)
    except SQLAlchemyError:
        raise
    except Exception as error:  # noqa: BLE001 - its own caller's
        return Outcome(job.token, None, error)


def _all(jobs: Sequence[Job], error: Exception) -> list[Outcome]:
    return [Outcome(job.token, None, error) for job in jobs]
