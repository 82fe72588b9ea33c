"""Copies of the embedded database: whole, of one moment, and made however much is written meanwhile."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from pkiserver.foundation.errors import Rejected
from pkiserver.store import backup
from pkiserver.store.migrate import migrate

MOST = 60_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "pkiserver.db"
    migrate(f"sqlite:///{made}")
    with closing(sqlite3.connect(made)) as database, database:
        database.execute("CREATE TABLE filler (id INTEGER PRIMARY KEY, octets BLOB)")
        database.executemany("INSERT INTO filler (octets) VALUES (?)", [(bytes(3000),)] * 3000)
    return made


def rows(file: Path) -> int:
    with closing(sqlite3.connect(file)) as database:
        return int(database.execute("SELECT count(*) FROM filler").fetchone()[0])


def test_a_server_that_writes_all_the_time_does_not_hold_it_up(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_PAGES", 64)  # many rounds, as a large database has
    begun, enough = threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(file, timeout=60)) as database:
            database.execute("PRAGMA synchronous = OFF")  # so that it writes between any two rounds
            for _ in range(MOST):
                with database:
                    database.execute("INSERT INTO filler (octets) VALUES (x'00')")
                begun.set()
                if enough.is_set():
                    return

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait(60)
    copy = tmp_path / "copy"
    backup.backup(f"sqlite:///{file}", copy)
    enough.set()
    writer.join()
    assert 3000 < rows(copy) < rows(file), "of the moment when it began"


def test_nothing_is_left_of_a_copy_that_finds_no_room(file: Path, tmp_path: Path) -> None:
    missing = tmp_path / "no" / "such" / "folder"
    with pytest.raises(FileNotFoundError):
        backup.backup(f"sqlite:///{file}", missing)
    with pytest.raises(Rejected, match="exists already"):
        backup.backup(f"sqlite:///{file}", file)
    with pytest.raises(Rejected, match="pg_dump"):
        backup.backup("postgresql://nobody@localhost/x", tmp_path / "copy")
