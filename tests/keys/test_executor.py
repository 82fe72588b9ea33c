"""Operations in a token's threads: what comes of them, who waits, and what happens when they do not end."""

from __future__ import annotations

import threading
import time
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, gatherResults

from pkiserver.keys import executor as module
from pkiserver.keys.executor import Executor
from pkiserver.keys.faults import FaultKind, KeyUnavailable

reactor: Any = _reactor


@asynccontextmanager
async def opened(*, threads: int = 1, deadline: float = 30.0):
    executor = Executor("t", threads=threads, deadline=deadline, reactor=reactor)
    try:
        yield executor
    finally:
        await executor.close()


async def test_what_comes_of_each_goes_to_who_asked_for_it() -> None:
    async with opened(threads=3) as executor:
        assert await gatherResults([executor.run(lambda n=n: n * n) for n in range(500)]) == [n * n for n in range(500)]


async def test_a_fault_goes_to_who_asked_and_stops_nobody() -> None:
    async with opened() as executor:
        waiting = [executor.run(lambda n=n: 1 // n) for n in (1, 0, 1)]
        assert await waiting[0] == 1
        with pytest.raises(ZeroDivisionError):
            await waiting[1]
        assert await waiting[2] == 1


async def test_no_more_threads_than_may() -> None:
    async with opened(threads=2) as executor:
        inside, most, lock = [0], [0], threading.Lock()

        def work() -> None:
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            with lock:
                inside[0] -= 1

        await gatherResults([executor.run(work) for _ in range(40)])
        assert most == [2]


async def test_those_who_leave_do_not_make_a_token_unavailable() -> None:
    async with opened() as executor:
        leaving = [executor.run(lambda: time.sleep(0.02)) for _ in range(10)]
        for one in leaving:
            one.cancel()
        assert await executor.run(lambda: "signed") == "signed"
        for one in leaving:
            with pytest.raises(CancelledError):
                await one


async def test_a_token_that_hangs_is_busy_and_is_used_again_when_it_comes_back() -> None:
    async with opened(deadline=0.2) as executor:
        released = threading.Event()
        hanging, behind = executor.run(released.wait), executor.run(lambda: "behind")
        for late in (hanging, behind):
            with pytest.raises(KeyUnavailable, match="did not answer within") as told:
                await late
            assert told.value.problem.kind is FaultKind.TOKEN_BUSY
        with pytest.raises(KeyUnavailable, match="does not answer"):
            await executor.run(lambda: "refused at once")
        assert await executor.run_aside(lambda: "beside it") == "beside it"
        released.set()
        until = time.monotonic() + 30
        while True:
            try:
                assert await executor.run(lambda: "signed") == "signed"
                break
            except KeyUnavailable:
                assert time.monotonic() < until
                await executor.run_aside(lambda: time.sleep(0.01))


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WAITING", 3)
    async with opened() as executor:
        released = threading.Event()
        waiting = [executor.run(released.wait) for _ in range(3)]
        with pytest.raises(KeyUnavailable, match="3 operations wait already"):
            await executor.run(lambda: "too many")
        released.set()
        assert await gatherResults(waiting) == [True] * 3
        assert await executor.run(lambda: "again") == "again"


async def test_the_reactor_is_told_of_many_at_once() -> None:
    """A thread that has more to do does not wait for the reactor, which hears of all that has ended in one call."""
    calls = []

    class Counting:
        seconds, callLater = reactor.seconds, reactor.callLater  # noqa: N815

        def callFromThread(self, function: Any, *arguments: Any) -> None:
            if function.__name__ == "_tell":
                calls.append(function)
            reactor.callFromThread(function, *arguments)

        def __getattr__(self, name: str) -> Any:
            return getattr(reactor, name)

    executor = Executor("t", threads=1, deadline=30.0, reactor=Counting())
    try:
        ended = threading.Event()
        waiting = [executor.run(lambda: None) for _ in range(99)]
        waiting.append(executor.run(ended.set))
        ended.wait(30)  # the reactor, which is this thread, could not be told meanwhile
        await gatherResults(waiting)
        assert len(calls) == 1
    finally:
        await executor.close()
