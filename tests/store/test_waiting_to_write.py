"""SQLite has one lock for writing: a process waits for another's transaction, not longer, and wastes no commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection
from twisted.internet.defer import Deferred, ensureDeferred

from pkiserver.foundation.errors import Unavailable
from pkiserver.store import engines
from pkiserver.store.certificates import blocked_keys
from pkiserver.store.migrate import migrate
from tests.support.stored import NOW, opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    migrate(f"sqlite:///{tmp_path / 'db'}")
    return tmp_path / "db"


@pytest.fixture
def other(file: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection, as far as SQLite can see."""
    with closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False)) as connection:
        yield connection


def block(number: int) -> Callable[[Connection], int]:
    return lambda c: blocked_keys.add_many(c, [number.to_bytes(32, "big")], why="test", now=NOW)


async def _pause(seconds: float) -> None:
    from twisted.internet import reactor

    waiting: Deferred[None] = Deferred()
    reactor.callLater(seconds, waiting.callback, None)  # type: ignore[attr-defined]
    await waiting


async def test_what_is_queued_while_another_process_writes_is_one_transaction(
    file: Path, other: sqlite3.Connection
) -> None:
    async with opened(f"sqlite:///{file}") as database:
        before = database.counts()
        other.execute("BEGIN IMMEDIATE")
        first = ensureDeferred(database.write(block(0)))
        while database.counts().waiting_writes:
            await _pause(0.005)
        await _pause(0.02)
        more = [ensureDeferred(database.write(block(n))) for n in range(1, 40)]
        assert not first.called
        other.execute("COMMIT")
        assert [await one for one in (first, *more)] == [1] * 40
        after = database.counts()
        assert after.writes - before.writes == 40
        assert after.transactions - before.transactions == 1


async def test_a_lock_that_is_not_given_back_makes_a_write_unavailable_and_the_next_one_works(
    file: Path, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(f"sqlite:///{file}") as database:
        monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.1)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await database.write(block(1))
        other.execute("ROLLBACK")
        assert await database.write(block(2)) == 1
        found = [key.spki_sha256[-1] for key in await database.read(blocked_keys.list_page)]
        assert found == [2]
