"""The SQL connector where something is out of order, and names that a database finds under other spellings."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration.connectors import hashes
from pkiserver.registration.connectors.sqlsettings import HashFormat
from pkiserver.registration.connectors.values import Denied, Finding, Shown, Step
from tests.registration.connectors.test_sql import PASSWORD, SETTINGS, made, rows
from tests.support.mariadb import MariaDb
from tests.support.postgres import PostgresServer

QUICK = 'answer_timeout = "1s"\nconnect_timeout = "2s"\n'
SPELLED = SETTINGS.replace("SELECT hash", "SELECT login AS userid, hash")
RIGHT = Secret(PASSWORD)


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDb]:
    server = MariaDb("reader secret")
    server.run(*rows(), database="customer")
    yield server
    server.discard()


def lite(folder: Path) -> Path:
    file = folder / "people.db"
    with sqlite3.connect(file) as connection:
        connection.executescript(";\n".join(rows()))
    connection.close()
    return file


def on_postgres(server: PostgresServer, url: str | None = None) -> str:
    url = url or server.new_url()
    with psycopg.connect(url, autocommit=True) as connection:
        for row in rows():
            connection.execute(row)  # type: ignore[call-overload]
    return url


async def found(url: str, more: str = SETTINGS) -> Finding:
    connector = made(url, QUICK + more)
    try:
        (only,) = await connector.check(None, None)
        if not only.fine:
            with pytest.raises(Unavailable):  # no wrong guess of whoever asks
                await connector.authenticate("alice", RIGHT)
        return only
    finally:
        connector.close()


async def test_a_query_that_cannot_be_run_is_no_matter_of_tls_whatever_its_columns_are_called(
    postgres_server: PostgresServer, mariadb: MariaDb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_PASSWORD", "reader secret")
    maria = f"mariadb://reader@127.0.0.1:{mariadb.port}"
    secret = 'password = "env:CRM_PASSWORD"\n'
    for url, more in (
        (f"sqlite:///{lite(tmp_path)}", ""),
        (on_postgres(postgres_server), ""),
        (f"{maria}/customer", secret),
    ):
        for right, wrong in (("people", "certificate_people"), ("SELECT hash", "SELECT ssl_hash AS hash")):
            assert (await found(url, more + SETTINGS.replace(right, wrong))).step is Step.ANSWER
    assert (await found(f"{maria}/mysql", secret + SETTINGS.replace("people", "user"))).step is Step.BIND
    elsewhere = 'insecure = true\npassword = "env:CRM_PASSWORD"\n' + SETTINGS
    assert (await found("mariadb://reader@tls-db.invalid/customer", elsewhere)).step is Step.RESOLVE


async def test_rights_and_locks_of_postgresql(postgres_server: PostgresServer) -> None:
    url = on_postgres(postgres_server)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS ssl_reader")
        connection.execute("CREATE ROLE ssl_reader LOGIN")
    try:
        assert (await found(url.replace("postgres@", "ssl_reader@"))).step is Step.BIND
        assert (await found(url.replace("postgres@", "tls_nobody@"))).step is Step.BIND
        with psycopg.connect(url) as connection:
            connection.execute("LOCK TABLE people IN ACCESS EXCLUSIVE MODE")
            assert (await found(url)).step is Step.SILENT
        assert (await found(url)).fine
        misspelt = await found(f"{url}x")
        assert (misspelt.step, "does not exist" in misspelt.text) == (Step.ANSWER, True), "somebody listens there"
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP ROLE ssl_reader")


async def test_a_query_that_changes_something_is_not_run_whatever_rights_its_user_has(
    postgres_server: PostgresServer,
) -> None:
    url = on_postgres(postgres_server)
    gone = SETTINGS.replace("SELECT hash", "WITH gone AS (DELETE FROM people RETURNING *) SELECT hash")
    refused = await found(url, gone.replace("FROM people WHERE", "FROM gone WHERE"))
    assert (refused.step, "read-only transaction" in refused.text) == (Step.ANSWER, True)
    assert isinstance(await authenticated(url, SETTINGS), Shown)


async def test_groups_that_are_separated_by_something_else(tmp_path: Path) -> None:
    url = f"sqlite:///{lite(tmp_path)}"
    shown = await authenticated(url, 'groups_separator = " "\n' + SETTINGS)
    assert isinstance(shown, Shown)
    assert shown.groups == {"staff,", "engineers"}


async def authenticated(url: str, settings: str) -> object:
    connector = made(url, settings)
    try:
        return await connector.authenticate("alice", RIGHT)
    finally:
        connector.close()


async def test_files_that_are_locked_no_database_or_oddly_called(tmp_path: Path) -> None:
    file = lite(tmp_path)
    writer = sqlite3.connect(file, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    assert (await found(f"sqlite:///{file}")).step is Step.SILENT
    writer.close()
    odd = file.rename(tmp_path / "people #1 100%.db")
    assert (await found(f"sqlite:///{odd}".replace("%", "%25").replace("#", "%23"))).fine
    (tmp_path / "text.db").write_text("no database" * 100)
    assert (await found(f"sqlite:///{tmp_path}/text.db")).step is Step.CONNECT


async def test_a_connection_that_was_lost_is_made_again(postgres_server: PostgresServer) -> None:
    url = on_postgres(postgres_server)
    connector = made(url, QUICK + SETTINGS)
    try:
        assert isinstance(await connector.authenticate("alice", RIGHT), Shown)
        postgres_server.end_connections(url)
        assert isinstance(await connector.authenticate("alice", RIGHT), Shown)
    finally:
        connector.close()


async def test_who_comes_while_the_settings_change_is_told_to_come_again(tmp_path: Path) -> None:
    connector = made(f"sqlite:///{lite(tmp_path)}")
    connector.close()
    with pytest.raises(Unavailable, match="settings have just changed"):
        await connector.authenticate("alice", RIGHT)


async def test_a_name_in_letters_that_the_database_does_not_have_is_nobody_s(
    postgres_server: PostgresServer, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_PASSWORD", "reader secret")
    name = f"latin{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.new_url(), autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"  # type: ignore[arg-type]
        )
    latin = on_postgres(postgres_server, f"postgresql://postgres@127.0.0.1:{postgres_server.port}/{name}")
    maria = f"mariadb://reader@127.0.0.1:{mariadb.port}/customer"
    for url, more in ((latin, SETTINGS), (maria, f'password = "env:CRM_PASSWORD"\n{SETTINGS}')):
        connector = made(url, more)
        try:
            denied = await connector.authenticate("Łukasz", RIGHT)
            assert isinstance(denied, Denied)
            assert denied.step is Step.USER
        finally:
            connector.close()


async def test_who_may_be_called_in_many_ways_has_one_name(mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_PASSWORD", "reader secret")
    url = f"mariadb://reader@127.0.0.1:{mariadb.port}/customer"
    connector = made(url, f'password = "env:CRM_PASSWORD"\n{SPELLED}')
    try:
        for name in ("alice", "ALICE", "álicé"):
            shown = await connector.authenticate(name, RIGHT)
            assert isinstance(shown, Shown)
            assert shown.name == "alice"
        for name in ("alice ", " alice"):
            assert isinstance(await connector.authenticate(name, RIGHT), Denied)
    finally:
        connector.close()


@pytest.mark.parametrize("kind", list(HashFormat))
def test_row_20_an_unknown_name_is_compared_with_a_hash_of_a_format_that_is_allowed(kind: HashFormat) -> None:
    stored = hashes.decoy((kind,))
    assert hashes.format_of(stored) is kind
    assert not hashes.verify(stored, b"password", (kind,))
