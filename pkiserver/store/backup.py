"""Copying the embedded database while the server runs; PostgreSQL has tools of its own for that."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.store.engines import is_sqlite, parse_url, sqlite_path

_PAGES = 2048
"""Pages copied at a time; between two rounds the server writes."""


def backup(url: str, target: Path) -> int:
    """Write one consistent copy of a SQLite database to a new file of mode 0600; returns its octets. Blocks.

    The copy is a database of its own: to restore, put it where the settings' URL points, with the server stopped.

    Raises:
        Rejected: the database is not SQLite, or the target exists.
        OSError: the target cannot be made.
        Unavailable: the database cannot be read or the copy not written.
    """
    parsed = parse_url(url)
    if not is_sqlite(parsed):
        raise Rejected.because(Refusal.UNSUPPORTED, "PostgreSQL is backed up with pg_dump or its own base backups")
    try:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise Rejected.because(Refusal.CONFLICT, f"{target} exists already") from None
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{sqlite_path(parsed)}?mode=ro", uri=True)) as source,
            contextlib.closing(sqlite3.connect(target)) as copy,
        ):
            # called after each round, without which Ctrl-C would be heard at the end
            source.backup(copy, pages=_PAGES, sleep=0.01, progress=lambda _status, _remaining, _total: None)
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
