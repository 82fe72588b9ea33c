"""Working off the queue of what is to be brought to one target: one process at a time, with back-off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol

import attrs
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pkiserver.authority.status.turns import Turn, Turns
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError
from pkiserver.outbound.dial import within
from pkiserver.store.database import Database
from pkiserver.store.publication import outward
from pkiserver.store.publication.outward import Standing, Task
from pkiserver.store.times import to_micros

_log = Logger(namespace="pkiserver.outward")

FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=10)
"""Between two tries at a target that cannot be reached; each pause is twice the last."""
FIRST_REFUSAL = timedelta(minutes=1)
LONGEST_REFUSAL = timedelta(days=1)
"""Between two tries at a subject that the target does not take."""
_BATCH = 200
_NOTED = 25
"""Results that are written to the database together."""
_WORKING = 25.0
_AT_ONCE = 25.0
"""Seconds: of a turn (a minute) so many are worked, and no single step lasts longer than the second."""


class TargetDown(Exception):  # a state of the target, not an error of ours
    """The target as a whole cannot be used now; the text says why in one line."""


class NotTaken(Exception):  # as above
    """The target does not take this subject; ``final``: and never will, so that it is given up."""

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


Bring = Callable[[Task], Awaitable[datetime | None]]
"""Deals with one subject; says when to look at it again. Raises :class:`NotTaken` or :class:`TargetDown`."""


class Bearer(Protocol):
    """Brings subjects to one target."""

    @property
    def key(self) -> str:
        """The target's name in the queue."""

    def session(self) -> AbstractAsyncContextManager[Bring]:
        """Reach the target, for a while; raises :class:`TargetDown`."""


@attrs.frozen
class _Result:
    task: Task
    again: datetime | None
    problem: str | None = None


class QueueRunner:
    """Keeps one target up to date; call :meth:`run_due` every second or two in every process."""

    def __init__(self, bearer: Bearer, database: Database, turns: Turns, clock: Clock) -> None:
        self.bearer = bearer
        self._database = database
        self._turns = turns
        self._clock = clock
        self.standing = Standing()
        self._doubtful: set[str] = set()

    async def run_due(self) -> int:
        """Bring what is due, unless the target is to be left alone for now; how many subjects were dealt with.

        Raises:
            Unavailable: the database is away.
        """
        await self._look_at_doubtful()
        if not await self._look():
            return 0
        async with self._turns.turn(f"outward:{self.bearer.key}") as turn:
            if turn is None or not await self._look():  # another process has it, or has been here before us
                return 0
            taken = await self._work(turn)
        await self._look()
        return taken

    async def _look_at_doubtful(self) -> None:
        """Queue anew what was brought after the turn had passed: another process may have brought something newer."""
        subjects = frozenset(self._doubtful)
        if subjects:
            key = self.bearer.key
            await self._database.write(lambda connection: outward.enqueue(connection, [key], subjects))
            self._doubtful -= subjects

    async def _look(self) -> tuple[Task, ...]:
        """What is due now; nothing while the target is left alone."""
        key, now = self.bearer.key, self._clock.now()
        self.standing, found = await self._database.read(
            lambda connection: (
                outward.standing(connection, key, now=now),
                outward.due(connection, key, now=now, limit=_BATCH),
            )
        )
        # beyond the longest pause the clock was set back
        resting = to_micros(now) < self.standing.next_try <= to_micros(now + LONGEST_PAUSE)
        return () if resting else found

    async def _work(self, turn: Turn) -> int:
        begun = self._clock.monotonic()
        results: list[_Result] = []
        taken = 0
        try:
            async with self.bearer.session() as bring:
                while not turn.is_over and (tasks := await self._look()) and self._clock.monotonic() - begun < _WORKING:
                    for task in tasks:
                        try:
                            results.append(await self._bring(bring, task))
                        except TargetDown as error:  # perhaps because of this subject: the others go first next time
                            results.append(self._refused(task, str(error)))
                            raise
                        taken += 1
                        if len(results) >= _NOTED:
                            await self._note(results, turn)
                            results = []
                        if turn.is_over or self._clock.monotonic() - begun >= _WORKING:
                            break
                    await self._note(results, turn)
                    results = []
        except TargetDown as error:
            await self._note(results, turn, down=str(error))
            _log.warn("{target}: {why}", target=self.bearer.key, why=str(error))
        return taken

    async def _bring(self, bring: Bring, task: Task) -> _Result:
        async def step() -> datetime | None:
            return await bring(task)

        try:
            waiting = Deferred.fromCoroutine(step())
            return _Result(task, await within(waiting, _AT_ONCE, lambda: TargetDown("no end within 25 s")))
        except NotTaken as error:
            _log.warn(
                "{target} does not take {subject}: {why}",
                target=self.bearer.key,
                subject=task.subject,
                why=str(error),
            )
            return self._refused(task, str(error), final=error.final)

    def _refused(self, task: Task, problem: str, *, final: bool = False) -> _Result:
        pause = min(FIRST_REFUSAL * 2 ** min(task.attempts, 20), LONGEST_REFUSAL)
        return _Result(task, None if final else self._clock.now() + pause, problem)

    async def _note(self, results: list[_Result], turn: Turn, *, down: str | None = None) -> None:
        key, failed_before = self.bearer.key, self.standing.attempts
        pause = min(FIRST_PAUSE * 2 ** min(failed_before, 20), LONGEST_PAUSE)

        def work(connection: Connection) -> None:
            turn.guard(connection)
            for one in sorted(results, key=lambda one: one.task.subject):  # as who queues them locks them
                if one.problem is None:
                    outward.done(connection, one.task, again=one.again)
                else:
                    outward.failed(connection, one.task, one.problem, again=one.again)
            if down is not None:
                outward.target_failed(connection, key, down, again=self._clock.now() + pause)
            elif failed_before:
                outward.target_reached(connection, key)

        if not results and down is None:
            return
        try:
            await self._database.write(work)
        except PkiError:
            # What has no detail is brought as it is when it is looked at; what has one was told, and is not told twice.
            self._doubtful |= {one.task.subject for one in results if one.task.detail is None}
            raise
