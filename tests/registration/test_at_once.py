"""Two processes change one object at the same moment: neither change is lost, or one of the two is told."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from sqlalchemy import Connection, text, update
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from pkiserver.authority.configuration import Configuration
from pkiserver.authority.documents import Key, read_documents
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.registration.accountfiles import Imported
from pkiserver.registration.accountimport import AccountImport
from pkiserver.registration.adminalterations import administrator_alterations
from pkiserver.registration.administrators import Administrator, Role
from pkiserver.store.engines import parse_url, writing_engine
from pkiserver.store.registration import administrators
from pkiserver.store.schema.authorities import authority
from pkiserver.store.schema.management import administrator
from pkiserver.store.schema.registration import account
from tests.support.engines import engine_with
from tests.support.postgres import PostgresServer

SECONDS = 30
"""Until a change that never waits for the other one is given up."""


async def while_another_commits(
    url: str, other: Callable[[Connection], object], change: Callable[[], Awaitable[Any]]
) -> Any:
    """Begin ``change`` while another process has done ``other`` and not committed it; what comes of it then."""
    engine = writing_engine(parse_url(url))
    connection = await deferToThread(engine.connect)
    try:
        await deferToThread(other, connection)
        changing = Deferred.fromCoroutine(_as_coroutine(change))
        await deferToThread(_until_somebody_waits, connection)
        await deferToThread(connection.commit)
        return await changing
    finally:
        await deferToThread(connection.close)
        engine.dispose()


async def _as_coroutine(change: Callable[[], Awaitable[Any]]) -> Any:
    return await change()


def _until_somebody_waits(connection: Connection) -> None:
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()")
    end = time.monotonic() + SECONDS
    while not connection.execute(waiting).scalar_one():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def server_url(postgres_server: PostgresServer) -> str:
    return postgres_server.new_url()


async def test_a_disabled_administrator_stays_disabled_when_their_groups_are_set(
    tmp_path: Path, server_url: str
) -> None:
    async with engine_with(tmp_path, {}, url=server_url) as engine:
        await engine.administrators.create(Administrator("ruth", frozenset({Role.RA_OFFICER})), by="tester")
        changed: Administrator = await while_another_commits(
            server_url,
            lambda connection: connection.execute(update(administrator).values(disabled=True)),
            lambda: engine.administrators.change("ruth", "tester", _with_group),
        )
        assert changed.disabled
        row = await engine.database.read(lambda connection: administrators.get(connection, "ruth"))
        assert row is not None
        assert (row.disabled, row.groups) == (True, frozenset({"desk"}))
        assert await engine.database.read(administrator_alterations) == ()


def _with_group(one: Administrator) -> Administrator:
    return attrs.evolve(one, groups=frozenset({"desk"}))


async def test_a_disabled_account_stays_disabled_when_its_groups_are_set_or_imported(
    tmp_path: Path, server_url: str
) -> None:
    async with engine_with(tmp_path, {}, url=server_url) as engine:
        for name in ("alice", "bob"):
            await engine.accounts.create(name, None, by="tester")

        def disabling(name: str) -> Callable[[Connection], object]:
            return lambda c: c.execute(update(account).where(account.c.name == name).values(disabled=True))

        await while_another_commits(
            server_url,
            disabling("alice"),
            lambda: engine.accounts.change("alice", groups=frozenset({"staff"}), by="tester"),
        )
        assert (await engine.accounts.get("alice")).disabled
        imports = AccountImport(engine.database, engine.audit, engine.accounts.hasher, engine.clock)
        plan = await imports.plan([Imported("bob", 1, groups=frozenset({"staff"}))])
        with pytest.raises(Rejected) as caught:
            await while_another_commits(server_url, disabling("bob"), lambda: imports.apply(plan, by="tester"))
        assert caught.value.has(Refusal.CONFLICT)
        assert (await engine.accounts.get("bob")).disabled


async def test_of_two_who_apply_settings_of_an_authority_one_is_told(tmp_path: Path, server_url: str) -> None:
    async with engine_with(tmp_path, {}, url=server_url) as engine:
        configuration = Configuration(engine.database, engine.audit, engine.clock)
        [(_, exported)] = await configuration.export(by="tester", wanted=[Key.parse("authority/issuing")])
        changed = exported.replace("http://pki.example", "http://pki.example.org")
        plan = await configuration.plan(read_documents([("issuing.toml", changed)]))
        other = exported.partition("[settings]")[2].replace("http://pki.example", "http://other.example")
        with pytest.raises(Rejected, match="changed meanwhile"):
            await while_another_commits(
                server_url,
                lambda c: c.execute(update(authority).where(authority.c.name == "issuing").values(config=other)),
                lambda: configuration.apply(plan, by="tester"),
            )
