"""The database becomes another one while the server runs: an upgrade by a newer program, a backup put in its place."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from pkiserver.store.migrate import head_revision
from tests.support.instance import Instance
from tests.support.postgres import PostgresServer

CONFIGURATION = 78


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    made = Instance(tmp_path_factory.mktemp("other"), workers=2)
    yield made
    made.stop()


def set_revision(instance: Instance, revision: str) -> None:
    with closing(sqlite3.connect(instance.layout.database)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def migrated_from(instance: Instance, revision: str) -> subprocess.CompletedProcess[str]:
    """A migration beside a server that does not see the other schema: it would end within ten seconds of that."""
    for _ in range(50):
        with instance.held():
            try:
                set_revision(instance, revision)
            except sqlite3.OperationalError:  # a worker is held in the middle of a write
                continue
            done = instance.cli("database", "migrate", check=False)
            set_revision(instance, head_revision())
            return done
    raise AssertionError("the database is always locked")


def test_no_schema_is_changed_under_a_server_and_one_that_is_ends_in_order(instance: Instance) -> None:
    instance.start()
    assert "already" in instance.cli("database", "migrate").stdout
    refused = migrated_from(instance, "0001")
    assert refused.returncode == 1
    assert "the database is in use by" in refused.stderr
    assert "stop the server on every node first" in refused.stderr
    set_revision(instance, "9999")
    assert instance.ended() == CONFIGURATION
    log = instance.log.read_text()
    assert "cannot serve any more: the database has schema 9999, of a newer program" in log
    assert log.count("stopped") >= 2, "each worker in order"
    set_revision(instance, head_revision())


def test_a_backup_that_is_put_in_place_of_a_running_servers_database_is_noticed(
    instance: Instance, tmp_path: Path
) -> None:
    instance.start()
    copy = tmp_path / "copy"
    instance.cli("database", "backup", str(copy))
    shutil.move(copy, instance.layout.database)
    assert instance.ended() == CONFIGURATION
    assert "is another file now: stop the server before a database is restored" in instance.log.read_text()


@pytest.mark.postgresql
def test_a_server_on_postgresql_ends_too(tmp_path: Path, postgres_server: PostgresServer) -> None:

    url = postgres_server.new_url()
    instance = Instance(tmp_path, database=url)
    instance.start()
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert instance.ended() == CONFIGURATION
