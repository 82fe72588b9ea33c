"""What only PostgreSQL does: it goes away, it returns, it chooses a transaction to lose, it notifies."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import Connection, text
from twisted.internet.defer import DeferredList, ensureDeferred
from twisted.internet.threads import deferToThread

from pkiserver.foundation.errors import Unavailable
from pkiserver.store import certificates, engines
from pkiserver.store.authority import status
from pkiserver.store.certificates import CertificateState, RevocationReason, blocked_keys
from pkiserver.store.database import Database
from pkiserver.store.failures import told_in_full
from pkiserver.store.migrate import Migration, head_revision, migrate
from tests.support.postgres import PostgresServer
from tests.support.stored import NOW, issue, opened

pytestmark = pytest.mark.postgresql


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that may be stopped without harm to other tests."""
    server = PostgresServer()
    yield server
    server.discard()


def add(number: int) -> object:
    return lambda c: blocked_keys.add_many(c, [number.to_bytes(32, "big")], why="test", now=NOW)


async def test_connections_ended_while_idle_are_replaced_unnoticed(own_server: PostgresServer) -> None:
    url = own_server.new_url()
    await deferToThread(migrate, url)
    async with opened(url) as database:
        await database.write(add(1))
        await deferToThread(own_server.end_connections, url)
        assert await database.write(add(2)) == 1
        assert await database.read(lambda c: blocked_keys.get(c, (2).to_bytes(32, "big"))) is not None
        assert database.counts().reconnects == 1


async def test_a_server_that_is_away_is_told_and_its_return_is_noticed(own_server: PostgresServer) -> None:
    url = own_server.new_url()
    await deferToThread(migrate, url)
    async with opened(url) as database:
        await deferToThread(own_server.stop, "immediate")
        try:
            with pytest.raises(Unavailable):
                await database.write(add(1))
            with pytest.raises(Unavailable):
                await database.read(status.latest)
            with pytest.raises(Unavailable):
                await Database.open(url)
        finally:
            await deferToThread(own_server.start)
        assert await database.write(add(1)) == 1
        assert await database.read(status.latest) == 0


async def test_looks_that_share_a_snapshot_are_all_told_that_the_server_is_away(own_server: PostgresServer) -> None:
    url = own_server.new_url()
    await deferToThread(migrate, url)
    idle: list[Callable[[], None]] = []

    async def look() -> list[object]:
        waiting = [ensureDeferred(database.look_up(status.latest)) for _ in range(3)]
        idle.pop()()
        found = await DeferredList(waiting, consumeErrors=True)
        return [value if done else value.type for done, value in found]

    async with opened(url, when_idle=idle.append, writing=False) as database:
        assert await look() == [0, 0, 0]
        await deferToThread(own_server.stop, "immediate")
        try:
            assert await look() == [Unavailable] * 3
        finally:
            await deferToThread(own_server.start)
        assert await look() == [0, 0, 0]


@pytest.mark.parametrize(
    "first",
    [lambda _c: None, lambda c: certificates.key_was_compromised(c, b"k" * 32)],
    ids=["a statement of SQLAlchemy's", "one that goes straight to the driver"],
)
async def test_a_connection_lost_at_work_runs_the_work_again(
    own_server: PostgresServer, first: Callable[[Connection], object]
) -> None:
    url = own_server.new_url()
    await deferToThread(migrate, url)
    runs: list[int] = []

    def work(connection: Connection) -> int:
        runs.append(1)
        if len(runs) == 1:
            own_server.end_connections(url)
            first(connection)
        return blocked_keys.add_many(connection, [b"k" * 32], why="test", now=NOW)

    async with opened(url) as database:
        assert await database.write(work) == 1
        assert len(runs) == 2
        assert await database.read(lambda c: blocked_keys.get(c, b"k" * 32)) is not None


async def test_a_deadlock_is_resolved_by_trying_again(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_url()
    await deferToThread(migrate, url)
    barrier = threading.Barrier(2)
    async with opened(url) as one, opened(url) as two:
        first, second = await one.write(lambda c: [issue(c), issue(c)])
        bump = text("UPDATE certificate SET replaced_by = coalesce(replaced_by, 0) + 1 WHERE id = :id")

        def crossing(near: int, far: int) -> object:
            met: list[bool] = []

            def work(connection: Connection) -> None:
                connection.execute(bump, {"id": near})
                if not met:
                    met.append(True)
                    barrier.wait(10)
                connection.execute(bump, {"id": far})

            return work

        there = ensureDeferred(one.write(crossing(first, second)))
        back = ensureDeferred(two.write(crossing(second, first)))
        await there
        await back
        assert one.counts().retries + two.counts().retries >= 1
        for number in (first, second):
            found = await one.read(lambda c, n=number: certificates.get(c, n))
            assert found is not None
            assert found.replaced_by == 2


async def test_a_process_that_is_stopped_in_a_transaction_does_not_keep_its_locks(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "STANDING_STILL", 200)
    url = postgres_server.new_url()
    await deferToThread(migrate, url)
    locked, woken, runs = threading.Event(), threading.Event(), list[int]()

    def revoke(connection: Connection, number: int) -> bool:
        return certificates.revoke(connection, number, reason=RevocationReason.SUPERSEDED, at=NOW)

    async with opened(url) as stopped, opened(url) as other:
        first, second = await stopped.write(lambda c: [issue(c), issue(c)])

        def work(connection: Connection) -> None:
            runs.append(1)
            revoke(connection, first)
            connection.execute(text("UPDATE feed_clock SET value = value"))  # as the last thing before the commit
            if len(runs) == 1:
                locked.set()
                woken.wait(60)

        waiting = ensureDeferred(stopped.write(work))
        await deferToThread(locked.wait, 60)
        assert await other.write(lambda c: revoke(c, second))
        woken.set()
        await waiting
        assert len(runs) == 2, "what was undone is done again"
        for number in (first, second):
            found = await other.read(lambda c, n=number: certificates.get(c, n))
            assert found is not None
            assert found.state is CertificateState.REVOKED


async def test_a_revocation_wakes_listeners_once_it_is_committed(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_url()
    await deferToThread(migrate, url)
    async with opened(url) as database:
        number = await database.write(issue)
        with psycopg.connect(database.conninfo, autocommit=True) as listener:
            listener.execute(f"LISTEN {status.CHANNEL}")
            await database.write(lambda c: certificates.revoke(c, number, reason=RevocationReason.SUPERSEDED, at=NOW))
            woken = await deferToThread(lambda: next(listener.notifies(timeout=5)))
            assert woken.payload == "1"


async def test_commit_means_disk_although_the_role_says_otherwise(postgres_server: PostgresServer) -> None:
    url = postgres_server.new_url()
    await deferToThread(migrate, url)
    with psycopg.connect(url, autocommit=True) as connection:
        name = url.rsplit("/", 1)[1]
        connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    async with opened(url) as database:
        assert await database.write(lambda c: c.execute(text("SHOW synchronous_commit")).scalar_one()) == "on"


def test_a_migration_takes_the_time_that_it_needs(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index over many certificates takes minutes; no statement of a server that serves may."""
    monkeypatch.setattr(engines, "STATEMENT_TIMEOUT", 1)
    assert migrate(postgres_server.new_url()) == Migration(None, head_revision())


async def test_a_server_that_only_reads_is_away_until_it_writes_again(postgres_server: PostgresServer) -> None:
    """As one does that was demoted, or whose disk an administrator saves; a session keeps what it began with."""
    url = postgres_server.new_url()
    await deferToThread(migrate, url)
    name = url.rsplit("/", 1)[1]

    def only_reads(value: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = {value}')

    await deferToThread(only_reads, "on")
    async with opened(url) as database:
        with pytest.raises(Unavailable) as away:
            await database.write(add(1))
        assert "read-only transaction" in told_in_full(away.value)
        assert await database.read(status.latest) == 0
        await deferToThread(only_reads, "off")
        assert await database.write(add(1)) == 1
