"""A database that answers and takes nothing is no sound one: readiness says so, and why."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from pkiserver.audit import AuditLog
from pkiserver.authority.recover import Recovery, lease_name
from pkiserver.authority.requests import CodeEvidence, IssuedCertificate
from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Unavailable
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.runtime.health import Finding, Health
from pkiserver.runtime.services.checks import database_check
from pkiserver.store import engines, leases
from pkiserver.store.migrate import migrate
from tests.support.children import WITHOUT_RIGHTS, finish, start
from tests.support.engines import engine_settings, engine_with, enrollment, template_text
from tests.support.postgres import PostgresServer
from tests.support.stored import opened

DEVICE = template_text("device", '[[evidence]]\nall = ["code"]\n')


async def issued(engine: Engine) -> IssuedCertificate:
    """A certificate for a fresh code."""
    _, code = await engine.codes.create(
        template="device", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
    )
    made = await engine.enroll(enrollment("device", CodeEvidence(code)))
    assert isinstance(made, IssuedCertificate)
    return made


def only_read(folder: Path) -> Callable[[], None]:
    """Forbid to write a folder and the database in it, with its log; returns what permits it again."""
    modes = {one: one.stat().st_mode for one in (folder, *folder.glob("db*"))}
    assert len(modes) == 4
    for one, mode in modes.items():
        one.chmod(mode & ~0o222)

    def give_back() -> None:
        for one, mode in modes.items():
            one.chmod(mode)

    return give_back


async def test_a_database_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.05)
    url = f"sqlite:///{tmp_path / 'db'}"
    migrate(url)
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
        async with opened(url) as database:
            audit = AuditLog(database, node="test", worker="0", clock=SystemClock())
            recovery = Recovery(database=database, audit=audit, clock=SystemClock(), holder="test/0/1")
            check = database_check(database, lambda: recovery.trouble)
            await recovery.start()
            assert await check.run() == [Finding("database", Health.OK, "answers")]
            other.execute("BEGIN IMMEDIATE")
            await recovery.give_sign()
            (found,) = await check.run()
            assert found.health is Health.WARNING
            assert found.text.startswith("answers, but takes nothing, so nothing is issued: ")
            assert found.text.endswith("(database is locked)")
            other.execute("ROLLBACK")
            await recovery.give_sign()
            assert await check.run() == [Finding("database", Health.OK, "answers")]
            await recovery.give_sign()
            other.execute("BEGIN IMMEDIATE")
            await recovery.stop()  # who stops where nothing can be written stops in order nevertheless
            other.execute("ROLLBACK")


async def test_a_server_starts_where_nothing_can_be_written_and_goes_on_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited, and told no status, though all that it takes to tell it could be read."""
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.05)
    settings = engine_settings(tmp_path)
    async with engine_with(tmp_path, {"device": DEVICE}):
        pass
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with open_engine(settings) as engine:
            assert [one.name for one in engine.authorities.list()] == ["issuing", "root"]
            assert "database is locked" in engine.road.recovery.trouble
            with pytest.raises(Unavailable):
                await issued(engine)
            other.execute("ROLLBACK")
            first = await issued(engine)  # known to be alive from here on, or another process would settle it at once
            now = engine.clock.now()
            names = [
                one.name for one in await engine.database.read(lambda c: leases.living(c, lease_name(""), now=now))
            ]
            assert len(names) == 1
            assert first.template == "device"


async def test_a_server_that_was_started_on_a_read_only_database_writes_once_it_can(tmp_path: Path) -> None:
    """SQLite opens such a file for reading, for good: it was opened anew by nobody."""
    async with engine_with(tmp_path, {"device": DEVICE}):
        other = sqlite3.connect(tmp_path / "db")  # as after a power cut, the write-ahead log stays
        other.execute("SELECT * FROM lease")
    with closing(other):
        give_back = only_read(tmp_path)
        child = start("tests.runtime.read_only_child", tmp_path, by=WITHOUT_RIGHTS)
        assert child.stdin is not None
        assert child.stdout is not None
        with child:
            assert child.stdout.readline() == "issuing root\n"
            child.stdin.write("\n")
            child.stdin.flush()
            assert child.stdout.readline().startswith("unavailable: ")
            assert "takes nothing, so nothing is issued" in child.stdout.readline()
            give_back()
            assert finish(child, "\n") == "ok: answers\n"


@pytest.mark.postgresql
async def test_why_a_database_is_away_is_told(postgres_url: str, postgres_server: PostgresServer) -> None:
    migrate(postgres_url)
    async with opened(postgres_url) as database:
        with postgres_server.away(postgres_url):
            (found,) = await database_check(database, str).run()
        assert found.health is Health.FAILED
        assert "is not currently accepting connections" in found.text
