"""The migrations make exactly the tables that the program uses, once, from any number of starts."""

from __future__ import annotations

import os
import pwd
import re
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.conninfo import conninfo_to_dict

from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.store import migrations
from pkiserver.store.database import Database
from pkiserver.store.engines import parse_url, reading_engine, writing_engine
from pkiserver.store.failures import told_in_full
from pkiserver.store.migrate import Migration, head_revision, inspect, migrate
from pkiserver.store.schema.columns import metadata
from tests.support.stored import opened


def test_the_migrated_schema_is_the_programs(url: str) -> None:
    engine = reading_engine(parse_url(url), 1)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_migrating_again_changes_nothing(empty_url: str) -> None:
    assert migrate(empty_url) == Migration(None, head_revision())
    assert migrate(empty_url) == Migration(head_revision(), head_revision())


def test_several_processes_may_migrate_at_once(empty_url: str) -> None:
    done: list[Migration] = []
    threads = [threading.Thread(target=lambda: done.append(migrate(empty_url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.after for one in done] == [head_revision()] * 4
    assert sum(one.before is None for one in done) == 1


async def test_an_empty_or_foreign_schema_is_refused(empty_url: str) -> None:
    with pytest.raises(Rejected, match="is empty: run `pkiserver database migrate`"):
        await Database.open(empty_url)
    migrate(empty_url)
    engine = writing_engine(parse_url(empty_url))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(Rejected, match=r"has schema 9999, of a newer program; .*: install the newer program"):
        await Database.open(empty_url)
    with pytest.raises(Rejected, match="has schema 9999, of a newer program"):
        migrate(empty_url)


@pytest.mark.parametrize("left", [0.5, 0.0])
async def test_a_damaged_file_is_told_as_such_and_as_no_defect_of_ours(tmp_path: Path, left: float) -> None:
    """It was a traceback, again and again: workers ended by it and were started anew."""
    file = tmp_path / "pki.db"
    migrate(f"sqlite:///{file}")
    octets = file.read_bytes()
    file.write_bytes(octets[: int(len(octets) * left)] or b"something else" * 500)
    for attempt in (lambda: migrate(f"sqlite:///{file}"), lambda: inspect(f"sqlite:///{file}")):
        with pytest.raises(Unavailable, match="is damaged: restore a backup"):
            attempt()
    with pytest.raises(Unavailable) as away:
        await Database.open(f"sqlite:///{file}")
    words = r"restore a backup \((file is not a database|database disk image is malformed)\)"
    assert re.search(words, told_in_full(away.value))


async def test_why_a_database_is_away_is_told_to_administrators(tmp_path: Path) -> None:
    folder, nowhere = tmp_path / "pki.db", tmp_path / "nowhere"
    folder.mkdir()
    cases = {folder: f"{folder}: Is a directory", nowhere / "1.db": f"{nowhere}: No such file or directory"}
    for file, why in cases.items():
        with pytest.raises(Unavailable) as away:
            await Database.open(f"sqlite:///{file}")
        assert str(away.value) == "the database cannot do this now"
        assert told_in_full(away.value) == f"the database cannot do this now (unable to open database file: {why})"


@pytest.mark.parametrize(
    "url", ["", "sqlite://", "sqlite:///:memory:", "sqlite:///x?mode=ro", "mysql://h/d", "postgresql+asyncpg://h/d"]
)
async def test_what_is_not_a_database_of_ours_is_refused(url: str) -> None:
    with pytest.raises(Rejected) as refused:
        await Database.open(url)
    assert refused.value.has(Refusal.CONFIGURATION)


async def test_only_a_database_server_has_a_connection_string(empty_url: str) -> None:
    migrate(empty_url)
    async with opened(empty_url) as database:
        if database.is_sqlite:
            with pytest.raises(ValueError, match="no connection string"):
                _ = database.conninfo
        else:
            assert conninfo_to_dict(database.conninfo)["dbname"]


def test_the_newest_file_is_the_head_of_the_chain() -> None:
    (folder,) = migrations.__path__
    config = Config()
    config.set_main_option("script_location", folder)
    assert ScriptDirectory.from_config(config).get_heads() == [head_revision()]


def test_a_database_that_root_makes_belongs_to_whom_its_folder_belongs(tmp_path: Path) -> None:
    assert os.geteuid() == 0, "this test makes a database as root, in the folder of another account"
    nobody = pwd.getpwnam("nobody")
    os.chown(tmp_path, nobody.pw_uid, nobody.pw_gid)
    migrate(f"sqlite:///{tmp_path}/pkiserver.db")
    owners = {one.name: (one.stat().st_uid, one.stat().st_gid) for one in tmp_path.iterdir()}
    assert "pkiserver.db" in owners
    assert set(owners.values()) == {(nobody.pw_uid, nobody.pw_gid)}


async def test_nobody_else_reads_a_database_that_is_made_here(tmp_path: Path) -> None:
    """Hashes of passwords are in it, and the keys of marks and codes; a umask is no protection."""
    file = tmp_path / "new" / "pkiserver.db"
    url = f"sqlite:///{file}"
    before = os.umask(0o000)
    try:
        migrate(url)
        database = await Database.open(url)
        try:
            modes = {one.name: oct(one.stat().st_mode & 0o777) for one in file.parent.iterdir()}
        finally:
            await database.close()
    finally:
        os.umask(before)
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert "pkiserver.db-wal" in modes
    assert set(modes.values()) == {"0o600"}
