"""Work that a node does by itself, over and over: each job in a loop of its own, none twice at the same time."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
from twisted.application.service import Service
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pkiserver.foundation.errors import PkiError
from pkiserver.store.failures import told_in_full

reactor: Any = _reactor
_log = Logger(namespace="pkiserver.jobs")


@attrs.frozen
class Job:
    """A job and the pause between its runs, in seconds. What must happen once in a site takes a lease by itself."""

    name: str
    seconds: float
    run: Callable[[], Awaitable[object]]


class Jobs(Service):
    """Runs the jobs from :meth:`begin` to :meth:`end`."""

    def __init__(self) -> None:
        self.setName("jobs")  # type: ignore[no-untyped-call]
        self._loops: list[Deferred[None]] = []
        self._ending = False

    def begin(self, jobs: Sequence[Job]) -> None:
        """Start every job, the first run at once."""
        self._ending = False
        self._loops = [Deferred.fromCoroutine(self._loop(job)) for job in jobs]

    async def _loop(self, job: Job) -> None:
        failed = False
        while True:
            try:
                await job.run()
            except CancelledError:
                return
            except PkiError as error:
                if not failed and not self._ending:
                    _log.warn("job {job}: {why}; trying again", job=job.name, why=told_in_full(error))
                failed = True
            except Exception:  # noqa: BLE001  # a job must not end for good because one run met a defect
                _log.failure("job {job} failed", job=job.name)
                failed = True
            else:
                if failed:
                    _log.info("job {job} works again", job=job.name)
                failed = False
            if self._ending:
                return  # a run that made something else of its cancellation must not be followed by another
            try:
                # spread, so that the workers of a site do not all come at the same moment
                await deferLater(reactor, job.seconds * random.uniform(0.9, 1.1))  # noqa: S311
            except CancelledError:
                return

    async def end(self) -> None:
        """Stop every job; one that runs is cancelled at its next wait."""
        self._ending = True
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
            try:
                await loop
            except CancelledError:
                continue
