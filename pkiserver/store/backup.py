"""Copying the embedded database while the server runs; PostgreSQL has tools of its own for that.

A copy knows that it is one: the number that SQLite keeps for the user of a database (``user_version``) says when it was
made, in minutes since 1970. In a database that was never restored it is 0.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, text

from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.store.engines import is_sqlite, parse_url, sqlite_path

_PAGES = 2048
"""Pages copied at a time; between two rounds the server writes."""
_MINUTE = 60


def require_possible(url: str, target: Path) -> None:
    """See that there is something to copy here, and a place for it.

    Raises:
        Rejected: the database is not SQLite, or the target exists.
    """
    if not is_sqlite(parse_url(url)):
        raise Rejected.because(Refusal.UNSUPPORTED, "PostgreSQL is backed up with pg_dump or its own base backups")
    if target.exists():
        raise Rejected.because(Refusal.CONFLICT, f"{target} exists already")


def backup(url: str, target: Path, *, at: datetime | None = None, given_up: Callable[[], bool] = lambda: False) -> int:
    """Write one consistent copy of a SQLite database to a new file of mode 0600; returns its octets. Blocks.

    The copy is a database of its own: to restore, put it where the settings' URL points, with the server stopped. It
    is of the moment when the copying begins, however much is written meanwhile.

    Args:
        url: The database.
        target: The new file.
        at: When the copy is made, if it shall know; the server that is started with it tells of that.
        given_up: Asked after each round; where it says yes, the copy ends there and goes.

    Raises:
        Rejected: the database is not SQLite, or the target exists.
        OSError: the target cannot be made.
        Unavailable: the database cannot be read or the copy not written, or it was given up.
    """
    require_possible(url, target)

    def go_on(_status: int, _remaining: int, _total: int) -> None:
        if given_up():
            raise Unavailable("the copy was given up")

    source = f"file:{sqlite_path(parse_url(url))}?mode=ro"
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise Rejected.because(Refusal.CONFLICT, f"{target} exists already") from None
    try:
        with (
            contextlib.closing(sqlite3.connect(source, uri=True, isolation_level=None)) as original,
            contextlib.closing(sqlite3.connect(target, isolation_level=None)) as copy,
        ):
            # one snapshot: SQLite would begin anew whenever another process has written, and never end
            original.execute("BEGIN")
            original.execute("SELECT count(*) FROM sqlite_master").fetchone()
            original.backup(copy, pages=_PAGES, sleep=0.01, progress=go_on)
            if at is not None:
                copy.execute(f"PRAGMA user_version = {int(at.timestamp()) // _MINUTE}")
            problem = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    except BaseException as error:  # Ctrl-C too: half a copy is none, and would stand in the way of the next
        with contextlib.suppress(OSError):
            target.unlink()
        if isinstance(error, OSError | sqlite3.Error):
            raise Unavailable(f"the database cannot be copied to {target}: {error}") from error
        raise
    if problem != "ok":
        raise Unavailable(f"the copy is damaged: {problem}")
    return target.stat().st_size


def copied_at(connection: Connection) -> datetime | None:
    """When the copy was made that this SQLite database is, to the minute; None where nobody restored it."""
    minutes = connection.execute(text("PRAGMA user_version")).scalar_one()
    return datetime.fromtimestamp(int(minutes) * _MINUTE, UTC) if minutes else None


def forget_copying(connection: Connection) -> None:
    """From now on the database is no copy any more; goes with the transaction."""
    connection.execute(text("PRAGMA user_version = 0"))
