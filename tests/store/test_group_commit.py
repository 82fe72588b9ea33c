"""Writes share a commit, fail one by one, and are durable when they are answered: also when the process is killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text
from twisted.internet.defer import CancelledError, Deferred, DeferredList, ensureDeferred

from pkiserver.foundation.errors import Defect, PkiError, Refusal, Rejected, Unavailable
from pkiserver.store import certificates
from pkiserver.store.authority import status
from pkiserver.store.certificates import RevocationReason, blocked_keys
from pkiserver.store.database import Database
from pkiserver.store.outbox import touch_configuration
from pkiserver.store.registration import codes
from tests.support import children
from tests.support.stored import NOW, issue, new_intent, opened


async def settle(coroutines: list[Any]) -> list[Any]:
    """Run coroutines at once; their results or exceptions."""
    results = await DeferredList([ensureDeferred(one) for one in coroutines], consumeErrors=True)
    return [value if done else value.value for done, value in results]


def block(number: int) -> Callable[[Connection], int]:
    """A small write."""
    return lambda c: blocked_keys.add_many(c, [number.to_bytes(32, "big")], why="test", now=NOW)


async def blocked(database: Database) -> int:
    """How many small writes are there."""
    return await database.read(lambda c: c.execute(text("SELECT count(*) FROM blocked_key")).scalar_one())


async def test_many_writes_share_few_transactions(url: str) -> None:
    async with opened(url) as database:
        before = database.counts()
        assert await settle([database.write(block(n)) for n in range(500)]) == [1] * 500
        after = database.counts()
        assert after.writes - before.writes == 500
        assert after.transactions - before.transactions < 100
        assert await blocked(database) == 500


async def test_what_a_busy_reactor_writes_waits_until_it_is_idle_and_shares_a_transaction(url: str) -> None:
    idle: list[Callable[[], None]] = []
    database = await Database.open(url, writing=False, when_idle=idle.append)
    before = database.counts().transactions
    waiting = [ensureDeferred(database.write(block(n))) for n in range(20)]
    assert database.counts().waiting_writes == 20
    assert await blocked(database) == 0
    (hand_over,) = idle
    hand_over()
    assert await DeferredList(waiting) == [(True, 1)] * 20
    assert database.counts().transactions - before == 1
    later = ensureDeferred(database.write(block(20)))
    assert len(idle) == 2
    assert not later.called
    await database.close()  # whatever waits is done first
    assert await later == 1
    with pytest.raises(Unavailable, match="closing"):
        await database.write(block(21))
    idle[1]()  # the moment comes, and nothing is left to do


async def test_writes_that_wait_for_an_idle_moment_count_for_the_queue(url: str) -> None:
    database = await Database.open(url, writing=False, queue_limit=3, when_idle=lambda _call: None)
    waiting = [ensureDeferred(database.write(block(n))) for n in range(3)]
    with pytest.raises(Unavailable, match="too many writes"):
        await database.write(block(3))
    await database.close()
    assert await DeferredList(waiting) == [(True, 1)] * 3


@pytest.mark.parametrize("failing", [{3}, {0, 1, 2, 3, 4, 9}])
async def test_one_failing_write_harms_no_other(url: str, failing: set[int]) -> None:
    async with opened(url) as database:

        def work(number: int) -> Callable[[Connection], int]:
            def do(connection: Connection) -> int:
                block(number)(connection)
                if number in failing:
                    raise Rejected.because(Refusal.CONFLICT, f"no {number}")
                return number

            return do

        results = await settle([database.write(work(n)) for n in range(20)])
        for number, result in enumerate(results):
            if number in failing:
                assert isinstance(result, Rejected)
                assert str(result) == f"no {number}"
            else:
                assert result == number
        assert await blocked(database) == 20 - len(failing)


async def test_a_broken_constraint_and_a_bad_statement_are_defects_of_their_own_caller(url: str) -> None:
    async with opened(url) as database:
        double = text("INSERT INTO feed_clock (name, value) VALUES ('status', 0)")
        works: list[Callable[[Connection], Any]] = [
            block(1),
            lambda c: c.execute(double),
            lambda c: c.execute(text("SELECT nothing FROM nowhere")),
            lambda c: 1 // 0,
            block(2),
        ]
        first, constraint, statement, own, last = await settle([database.write(work) for work in works])
        assert (first, last) == (1, 1)
        assert isinstance(constraint, Defect)
        assert isinstance(statement, Defect)
        assert isinstance(own, ZeroDivisionError)
        assert await blocked(database) == 2


async def test_a_code_is_spent_once_in_a_race_of_fifty(url: str) -> None:
    async with opened(url) as one, opened(url) as two:
        code = codes.NewCode(b"h" * 32, "device", None, (), NOW.replace(year=2027), "alice", NOW)
        number = await one.write(lambda c: codes.insert_code(c, code))

        def enrol(connection: Connection) -> int:
            if not codes.spend(connection, number, now=NOW):
                raise Rejected.because(Refusal.NOT_AUTHENTICATED, "the code is not valid")
            certificate = issue(connection)
            codes.bind_certificate(connection, number, certificate)
            return certificate

        results = await settle([(one, two)[n % 2].write(enrol) for n in range(50)])
        won = [result for result in results if isinstance(result, int)]
        assert len(won) == 1
        assert sum(isinstance(result, Rejected) for result in results) == 49
        spent = await two.read(lambda c: codes.by_keyed_hash(c, b"h" * 32))
        assert spent is not None
        assert (spent.certificate_id, spent.spent_at) == (won[0], NOW)
        found = await two.read(lambda c: certificates.search(c, certificates.Criteria()))
        assert [certificate.id for certificate in found.certificates] == won


async def test_a_full_queue_refuses_and_a_slow_write_blocks_no_read(url: str) -> None:
    gate = threading.Event()
    async with opened(url, queue_limit=5) as database:
        slow = ensureDeferred(database.write(lambda _c: gate.wait(20)))
        while database.counts().waiting_writes:
            await _pause()
        queued = [ensureDeferred(database.write(block(n))) for n in range(5)]
        with pytest.raises(Unavailable):
            await database.write(block(6))
        assert await blocked(database) == 0
        gate.set()
        assert await slow
        assert [await one for one in queued] == [1] * 5


async def test_a_caller_that_went_away_harms_nobody(url: str) -> None:
    gate = threading.Event()
    async with opened(url) as database:
        slow = ensureDeferred(database.write(lambda _c: gate.wait(20)))
        gone = ensureDeferred(database.write(block(1)))
        other = ensureDeferred(database.write(block(2)))
        gone.cancel()
        gate.set()
        with pytest.raises(CancelledError):
            await gone
        assert await slow
        assert await other == 1


async def test_a_read_can_write_nothing(url: str) -> None:
    async with opened(url) as database:
        for work in (block(1), lambda c: c.execute(text("UPDATE feed_clock SET value = 7"))):
            with pytest.raises(PkiError):
                await database.read(work)
        with pytest.raises(Defect):
            await database.read(touch_configuration)
        assert await blocked(database) == 0
        assert await database.read(status.latest) == 0


async def test_after_closing_nothing_is_accepted(url: str) -> None:
    async with opened(url) as database:
        pass
    with pytest.raises(Unavailable):
        await database.write(block(1))
    with pytest.raises(Unavailable):
        await database.read(lambda _c: None)


async def test_the_status_feed_has_no_gap_and_no_late_arrival(url: str) -> None:
    """Two writers revoke at once while a reader follows the feed by number: it misses nothing."""
    async with opened(url) as one, opened(url) as two:
        numbers = await one.write(lambda c: [issue(c, new_intent()) for _ in range(200)])
        seen: list[int] = []

        def revoke(number: int) -> Callable[[Connection], bool]:
            return lambda c: certificates.revoke(c, number, reason=RevocationReason.SUPERSEDED, at=NOW)

        async def follow() -> None:
            while len(seen) < len(numbers):
                changes = await one.read(lambda c: status.since(c, seen[-1] if seen else 0))
                seen.extend(change.seq for change in changes)
                await _pause()

        following = ensureDeferred(follow())
        done = await settle([(one, two)[n % 2].write(revoke(n)) for n in numbers])
        assert done == [True] * 200
        await following
        assert seen == list(range(1, 201))
        assert await two.read(status.latest) == 200


async def test_two_processes_write_at_once(url: str) -> None:
    running = [children.start("tests.store.writing_child", url, name, 300) for name in ("a", "b")]
    acknowledged = [await _in_thread(child.communicate) for child in running]
    assert [child.returncode for child in running] == [0, 0]
    serials = {line for out, _ in acknowledged for line in out.split()}
    assert len(serials) == 600
    async with opened(url) as database:
        rows = await database.read(
            lambda c: c.execute(text("SELECT count(*) FROM certificate WHERE state = 'issued'")).scalar_one()
        )
        assert rows == 600


@pytest.mark.crash
async def test_what_was_acknowledged_survives_kill_and_nothing_is_torn(url: str) -> None:
    acknowledged: set[str] = set()
    for round_ in range(3):
        child = children.start("tests.store.writing_child", url, f"k{round_}", 100_000)
        assert child.stdout is not None
        for _ in range(40 + 60 * round_):
            acknowledged.add((await _in_thread(child.stdout.readline)).strip())
        os.kill(child.pid, signal.SIGKILL)
        rest, _ = await _in_thread(child.communicate)
        complete = rest.split("\n")[:-1]
        acknowledged.update(complete)
    async with opened(url) as database:

        def check(connection: Connection) -> None:
            stored = connection.execute(text("SELECT id, request_id, state, sans FROM certificate")).all()
            assert acknowledged <= {row.request_id for row in stored if row.state == "issued"}
            named = {row[0] for row in connection.execute(text("SELECT DISTINCT certificate_id FROM certificate_san"))}
            assert named == {row.id for row in stored}
            under_way = {intent.id for intent in certificates.open_intents(connection)}
            assert not under_way & named

        await database.read(check)


async def _in_thread(work: Callable[[], Any]) -> Any:
    from twisted.internet.threads import deferToThread

    return await deferToThread(work)


async def _pause() -> None:
    from twisted.internet import reactor

    waiting: Deferred[None] = Deferred()
    reactor.callLater(0.005, waiting.callback, None)  # type: ignore[attr-defined]
    await waiting
