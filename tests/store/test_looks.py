"""Looks of one moment share a thread and a snapshot, and each is answered as if it were alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text
from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred

from pkiserver.foundation.errors import Defect, Refusal, Rejected, Unavailable
from pkiserver.store.database import Database
from tests.support.stored import opened


class Idle:
    """A reactor that is idle when the test says so."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def now(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call()


@pytest.fixture
def idle() -> Idle:
    return Idle()


def start(database: Database, work: Callable[[Connection], Any]) -> Deferred[Any]:
    return ensureDeferred(database.look_up(work))


def number(wanted: int) -> Callable[[Connection], int]:
    return lambda connection: int(connection.execute(text(f"SELECT {wanted}")).scalar_one())


async def answers(waiting: list[Deferred[Any]]) -> list[Any]:
    """Values, or exceptions' types and words."""
    results = await DeferredList(waiting, consumeErrors=True)
    return [value if done else (value.type, str(value.value)) for done, value in results]


async def test_they_wait_for_an_idle_moment_and_share_it(url: str, idle: Idle) -> None:
    async with opened(url, when_idle=idle.calls.append, writing=False, queue_limit=20) as database:
        places = []

        def work(connection: Connection) -> int:
            places.append((threading.current_thread().name, id(connection)))
            return len(places)

        waiting = [start(database, work) for _ in range(9)]
        assert await database.read(number(7)) == 7  # what is longer does not wait for that moment
        assert not places
        assert database.counts().waiting_reads == 9
        assert len(idle.calls) == 1
        idle.now()
        assert await answers(waiting) == list(range(1, 10))
        assert len(set(places)) == 1
        assert database.counts().waiting_reads == 0


async def test_an_error_is_its_own_callers(url: str, idle: Idle) -> None:
    async with opened(url, when_idle=idle.calls.append, writing=False, queue_limit=20) as database:

        def refuse(_connection: Connection) -> None:
            raise Rejected.because(Refusal.CONFLICT, "no")

        def stumble(_connection: Connection) -> None:
            raise KeyError("missing")

        waiting = [start(database, work) for work in (number(1), refuse, number(2), stumble)]
        idle.now()
        assert await answers(waiting) == [1, (Rejected, "no"), 2, (KeyError, "'missing'")]


async def test_a_statement_that_the_database_refuses_harms_no_other(url: str, idle: Idle) -> None:
    async with opened(url, when_idle=idle.calls.append, writing=False, queue_limit=20) as database:

        def bad(connection: Connection) -> None:
            connection.execute(text("SELECT nothing FROM nowhere"))

        waiting = [start(database, work) for work in (number(1), bad, number(2), bad)]
        idle.now()
        first, second, third, fourth = await answers(waiting)
        assert (first, third) == (1, 2)
        assert second[0] is fourth[0] is Defect


async def test_one_that_nobody_waits_for_is_not_done(url: str, idle: Idle) -> None:
    async with opened(url, when_idle=idle.calls.append, writing=False, queue_limit=20) as database:
        done: list[int] = []
        waiting = [start(database, lambda _connection, n=n: done.append(n)) for n in range(3)]
        waiting[1].cancel()
        idle.now()
        assert (await answers(waiting))[1][0] is CancelledError
        assert done == [0, 2]
        left = start(database, done.append)
        left.cancel()
        idle.now()
        assert (await answers([left]))[0][0] is CancelledError
        assert await database.read(number(3)) == 3


async def test_they_count_for_the_limit_of_reads(url: str, idle: Idle) -> None:
    async with opened(url, when_idle=idle.calls.append, writing=False, queue_limit=20) as database:
        waiting = [start(database, number(n)) for n in range(20)]
        with pytest.raises(Unavailable, match="too many reads"):
            await database.look_up(number(20))
        idle.now()
        assert await answers(waiting) == list(range(20))


async def test_what_waits_is_answered_before_the_database_closes(url: str, idle: Idle) -> None:
    database = await Database.open(url, writing=False, when_idle=idle.calls.append)
    waiting = start(database, number(5))
    await database.close()
    assert await waiting == 5
    with pytest.raises(Unavailable, match="closed"):
        await database.look_up(number(5))
    idle.now()


async def test_without_idle_moments_they_are_reads(url: str) -> None:
    async with opened(url) as database:
        assert await database.look_up(number(5)) == 5
