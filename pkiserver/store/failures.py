"""What a database error means: try again at once, try again later, or a defect of ours."""

from __future__ import annotations

import enum
import sqlite3
import sys

from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pkiserver.foundation.errors import Defect, PkiError, Unavailable

_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_PERM,
    }
)
_SQLITE_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_AGAIN = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected
_READ_ONLY = "25006"  # which psycopg takes for an error of the program


class OutcomeUnknown(Unavailable):
    """The connection was lost during commit: what was to be written may be there, or not."""


class Kind(enum.Enum):
    """What may be done about an error."""

    AGAIN = "again"
    """The engine chose this transaction to lose; the same work may succeed at once."""
    LOST = "lost"
    """The connection is gone; nothing is known about a commit that was under way."""
    AWAY = "away"
    """The database cannot do it now: locked, full, read-only, time limit."""
    DAMAGED = "damaged"
    """The file is no database, or no longer a whole one."""
    OWN = "own"
    """The work's own error: a refusal, a broken constraint, a defect."""


def kind_of(error: BaseException) -> Kind:
    """Sort an error that came out of a unit of work."""
    if isinstance(error, PoolTimeout):
        return Kind.AWAY
    if not isinstance(error, DBAPIError):
        return Kind.OWN
    if error.connection_invalidated:
        return Kind.LOST
    cause = error.orig
    psycopg = sys.modules.get("psycopg")  # not loaded where no PostgreSQL is used: it would slow every command down
    if psycopg is not None and isinstance(cause, psycopg.Error):
        if cause.sqlstate in _AGAIN:
            return Kind.AGAIN
        is_away = isinstance(cause, psycopg.OperationalError) or cause.sqlstate == _READ_ONLY
        return Kind.AWAY if is_away else Kind.OWN
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF if isinstance(cause, sqlite3.Error) else 0
    if code in _SQLITE_DAMAGED:
        return Kind.DAMAGED
    return Kind.AWAY if code in _SQLITE_AWAY else Kind.OWN


def is_read_only(error: BaseException) -> bool:
    """Whether SQLite could not write because the file was opened for reading only."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return isinstance(cause, sqlite3.Error) and cause.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY


def as_domain_error(error: Exception, *, committing: bool = False) -> Exception:
    """The error that a caller of the database sees: never one of the driver's.

    Args:
        error: What was raised.
        committing: Whether the commit had been sent, so that nobody knows whether it took place.
    """
    if isinstance(error, PkiError):
        return error
    kind = kind_of(error)
    if committing and kind is Kind.LOST:
        return _caused(OutcomeUnknown("the database connection was lost during commit; the outcome is unknown"), error)
    if kind is Kind.LOST:
        return _caused(Unavailable("the database cannot be reached", retry_after=5), error)
    if kind is Kind.DAMAGED:
        return _caused(Unavailable("the database is damaged: restore a backup", retry_after=60), error)
    if kind is not Kind.OWN:
        return _caused(Unavailable("the database cannot do this now", retry_after=2), error)
    if isinstance(error, IntegrityError):
        return _caused(Defect(f"a database constraint was broken: {error.orig}"), error)
    if isinstance(error, SQLAlchemyError):
        return _caused(Defect(f"the database refused a statement: {error}"), error)
    return error


def told_in_full(error: PkiError) -> str:
    """What went wrong with the driver's own words, on one line: for administrators, never for clients."""
    cause = error.__cause__
    words = str(cause.orig) if isinstance(cause, DBAPIError) else ""
    return f"{error} ({' '.join(words.split())})" if words else str(error)


def _caused(error: PkiError, cause: Exception) -> PkiError:
    error.__cause__ = cause
    return error
