"""A database that answers and takes nothing is no sound one: readiness says so, and why."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pkiserver.audit import AuditLog
from pkiserver.authority.recover import Recovery
from pkiserver.foundation.clock import SystemClock
from pkiserver.runtime.health import Finding, Health
from pkiserver.runtime.services.checks import database_check
from pkiserver.store import engines
from pkiserver.store.migrate import migrate
from tests.support.postgres import PostgresServer
from tests.support.stored import opened


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


@pytest.mark.postgresql
async def test_why_a_database_is_away_is_told(postgres_url: str, postgres_server: PostgresServer) -> None:
    migrate(postgres_url)
    async with opened(postgres_url) as database:
        with postgres_server.away(postgres_url):
            (found,) = await database_check(database, str).run()
        assert found.health is Health.FAILED
        assert "is not currently accepting connections" in found.text
