"""SQLAlchemy engines for the two databases: what each needs to be durable, bounded in waiting, and consistent."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from pkiserver.foundation.errors import Refusal, Rejected

BUSY_TIMEOUT = 10.0
"""Seconds that a SQLite writer waits for another process's transaction."""
_LOOK_AGAIN = (0.0003, 0.0009)
"""Seconds between two looks whether another process's transaction is over, at least and at most."""
_BEGIN_TO_WRITE = "BEGIN IMMEDIATE"
_LOG_INDEX = 32 * 1024
"""Octets that SQLite makes beside the file before it reads anything of it."""
_LOCKED_PAUSE = 0.02
"""Seconds between two looks at a file that another process is turning to its write-ahead log."""
CONNECT_TIMEOUT = 5
"""Seconds to reach PostgreSQL."""
LOCK_TIMEOUT = 10_000
"""Milliseconds that a PostgreSQL statement waits for a row lock."""
STATEMENT_TIMEOUT = 60_000
"""Milliseconds that one PostgreSQL statement, or one fetch of a streamed one, may take."""
STANDING_STILL = 30_000
"""Milliseconds between two statements of a transaction that writes, after which PostgreSQL ends it.

A process that is stopped in it would keep its locks, the feeds' counters among them: nobody could revoke anything.
"""

_HINT = "use sqlite:///path/to/file or postgresql://user@host/database"


def parse_url(url: str) -> URL:
    """Check a database URL and name its driver.

    Raises:
        Rejected: with :data:`Refusal.CONFIGURATION` for anything but a SQLite file or PostgreSQL.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise Rejected.because(Refusal.CONFIGURATION, f"this is no database URL: {_HINT}") from None
    if parsed.drivername in {"postgresql", "postgres", "postgresql+psycopg"}:
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in {"sqlite", "sqlite+pysqlite"}:
        if not parsed.database or parsed.database == ":memory:" or parsed.query:
            raise Rejected.because(Refusal.CONFIGURATION, f"SQLite needs a file: {_HINT}")
        return parsed.set(drivername="sqlite+pysqlite")
    raise Rejected.because(Refusal.CONFIGURATION, f"{parsed.drivername} is not a supported database: {_HINT}")


def is_sqlite(url: URL) -> bool:
    """Whether a parsed URL is a SQLite file's."""
    return url.get_backend_name() == "sqlite"


def writing_engine(url: URL) -> Engine:
    """An engine whose one connection writes: durable at commit, never waiting without end."""
    if is_sqlite(url):
        return _sqlite(url, size=1, reading=False)
    return _postgresql(url, size=1, reading=False)


def migrating_engine(url: URL) -> Engine:
    """As :func:`writing_engine`; its statements take as long as they need: those that index a table do."""
    return writing_engine(url) if is_sqlite(url) else _postgresql(url, size=1, reading=False, statement_timeout=0)


def reading_engine(url: URL, size: int) -> Engine:
    """An engine whose ``size`` connections read one consistent snapshot each and can write nothing."""
    if is_sqlite(url):
        return _sqlite(url, size=size, reading=True)
    return _postgresql(url, size=size, reading=True)


def _sqlite(url: URL, *, size: int, reading: bool) -> Engine:
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        pool_reset_on_return=None if not reading else "rollback",
        connect_args={"timeout": BUSY_TIMEOUT, "check_same_thread": False, "cached_statements": 512},
        hide_parameters=True,
    )

    path = sqlite_path(url)

    def connect(dialect: Any, _record: object, arguments: Any, more: Any) -> sqlite3.Connection:
        with _told_why(path):
            made: sqlite3.Connection = dialect.connect(*arguments, **more)
        return made

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions behind our back
        cursor = connection.cursor()
        with _told_why(path):
            ahead = _write_ahead(cursor)
        if ahead and not reading:
            cursor.execute("PRAGMA busy_timeout=0")  # see _begin_to_write
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA trusted_schema=OFF")
        cursor.execute(f"PRAGMA cache_size=-{65536 if not reading else 16384}")
        if reading:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", _begin_to_read if reading else _begin_to_write)
    return engine


@contextmanager
def _told_why(path: Path) -> Iterator[None]:
    """Let SQLite's "unable to open database file" and "disk I/O error" say which file or folder, and why."""
    looks = {sqlite3.SQLITE_CANTOPEN: _why_closed, sqlite3.SQLITE_IOERR: _lack_of_room}
    try:
        yield
    except sqlite3.OperationalError as error:
        look = looks.get(error.sqlite_errorcode & 0xFF)
        if look is None or not (why := look(path)):
            raise
        told = sqlite3.OperationalError(f"{error}: {why}")
        told.sqlite_errorcode, told.sqlite_errorname = error.sqlite_errorcode, error.sqlite_errorname
        raise told from error


def _why_closed(path: Path) -> str:
    """Why a database's file cannot be read and written, or none made beside it; empty where both can be.

    The file itself must not be opened: closing it would give up the locks of this process.
    """
    if path.is_dir():
        return f"{path}: {os.strerror(errno.EISDIR)}"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        is_read_only = os.statvfs(path).f_flag & os.ST_RDONLY
        return f"{path}: {os.strerror(errno.EROFS if is_read_only else errno.EACCES)}"
    try:
        os.close(os.open(path.parent, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600))
    except OSError as error:
        return "" if error.errno == errno.EOPNOTSUPP else f"{path.parent}: {error.strerror}"
    return ""


def _lack_of_room(path: Path) -> str:
    """That no room is left for the index of the write-ahead log, where that is so; empty elsewhere."""
    with suppress(OSError):
        if shutil.disk_usage(path.parent).free < _LOG_INDEX:
            return f"no room is left under {path.parent}"
    return ""


def _begin_to_read(connection: Connection) -> None:
    """Begin a snapshot; it locks nothing that could fail, so SQLAlchemy's own way around the driver is spared."""
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    driver.execute("BEGIN")


def _begin_to_write(connection: Connection) -> None:
    """Take the file's one lock for writing.

    SQLite's own wait looks again after ever longer pauses, up to a tenth of a second, while another process's
    transaction takes a few milliseconds: of two processes each would mostly sleep. So a connection that writes has no
    wait of SQLite's: with a write-ahead log nothing can be locked behind this statement any more.
    """
    driver = connection.connection.dbapi_connection
    assert isinstance(driver, sqlite3.Connection)
    deadline = monotonic() + BUSY_TIMEOUT
    while True:
        try:
            driver.execute(_BEGIN_TO_WRITE)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                break
            sleep(random.uniform(*_LOOK_AGAIN))  # noqa: S311 - spreads the looks, guards nothing
        else:
            return
    connection.exec_driver_sql(_BEGIN_TO_WRITE)  # whose error is one of SQLAlchemy's, as callers expect


def _write_ahead(cursor: sqlite3.Cursor) -> bool:
    """Turn the write-ahead log on, once for the file's life; several processes may be the first at the same time.

    SQLite reports "locked" for this one change without waiting for its busy timeout, so the wait is ours. False where
    the file's place knows no such log.
    """
    deadline = monotonic() + BUSY_TIMEOUT
    while True:
        try:
            (mode,) = cursor.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                raise
            sleep(_LOCKED_PAUSE)
        else:
            return bool(mode == "wal")


def _postgresql(url: URL, *, size: int, reading: bool, statement_timeout: int | None = None) -> Engine:
    longest = STATEMENT_TIMEOUT if statement_timeout is None else statement_timeout
    options = f"-c lock_timeout={LOCK_TIMEOUT} -c statement_timeout={longest} -c timezone=UTC"
    if not reading and longest:
        options += f" -c idle_in_transaction_session_timeout={STANDING_STILL}"
    arguments: dict[str, Any] = {
        "connect_timeout": CONNECT_TIMEOUT,
        "application_name": "pkiserver " + ("reader" if reading else "writer"),
        "options": options,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 10_000,
    }
    # What the administrator wrote into the URL wins.
    arguments = {key: value for key, value in arguments.items() if key not in url.query}
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=size,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT,
        connect_args=arguments,
        isolation_level="REPEATABLE READ" if reading else "READ COMMITTED",
        hide_parameters=True,
    )
    event.listen(engine, "connect", _postgresql_reads if reading else _postgresql_writes)
    return engine


def _postgresql_reads(connection: Any, _record: object) -> None:
    connection.read_only = True


def _postgresql_writes(connection: Any, _record: object) -> None:
    """A certificate is handed out after commit, so commit must mean disk; a stricter setting is kept."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        if cursor.fetchone()[0] == "off":
            cursor.execute("SET synchronous_commit = on")
    connection.commit()


def sqlite_path(url: URL) -> Path:
    """The file behind a SQLite URL."""
    return Path(url.database or "")
