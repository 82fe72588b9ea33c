"""What a database's error says about what to repair: who can be reached, who is let in, what the query asks for."""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from pkiserver.registration.connectors.values import Step

# names of hosts, users, tables and columns stand in quotes, and may contain any of the words that are looked for
_QUOTED = re.compile(r""""[^"]*"|(?<!\w)'[^']*'""")
_MYSQL_RIGHTS = frozenset({1044, 1045, 1142, 1143, 1698, 3118, 4151})
_MYSQL_WAITS = frozenset({1205, 1213, 1969, 3024})
_MYSQL_ALPHABET = frozenset({1267, 3854, 3988})
"""Illegal mix of collations; conversion impossible: a column of latin1 is compared with a name in Cyrillic."""
_MYSQL_CLIENT = range(2000, 3000)
"""Errors of the client library, about the connection."""
_TEXTS = (
    (Step.RESOLVE, ("resolve", "name or service", "getaddrinfo", "name resolution")),
    (Step.BIND, ("pg_hba.conf", "authentication failed", "access denied", "no password supplied", "role ")),
    (Step.TLS, ("certificate", "ssl", "tls")),
    (Step.SILENT, ("timeout", "timed out", "locked")),
    (Step.ANSWER, ("fatal: database does not exist",)),
    (Step.CONNECT, ("refused", "can't connect", "unable to open", "not a database", "connection failed")),
)


def words(error: Exception) -> str:
    """The driver's own words on one line, without SQLAlchemy's statement and link."""
    return " ".join(str(_original(error)).split())[:300]


def step(error: SQLAlchemyError) -> Step:
    """How far the question came."""
    original = _original(error)
    if isinstance(error, PoolTimeout):
        return Step.SILENT
    if (state := getattr(original, "sqlstate", None)) and type(original).__module__.startswith("psycopg"):
        return _by_state(str(state))
    number = original.args[0] if original.args else None
    if isinstance(number, int) and number not in _MYSQL_CLIENT:
        return Step.BIND if number in _MYSQL_RIGHTS else Step.SILENT if number in _MYSQL_WAITS else Step.ANSWER
    text = " ".join(_QUOTED.sub("", str(original.args[-1]) if original.args else "").lower().split())
    if isinstance(original, sqlite3.Error) and text.startswith("no such"):
        return Step.ANSWER
    return _by_text(text, error)


def is_other_alphabet(error: Exception) -> bool:
    """Whether the name cannot be written in the database's character set: nobody there is called so."""
    original = _original(error)
    number = original.args[0] if original.args else None
    if isinstance(original, UnicodeEncodeError) or number in _MYSQL_ALPHABET:
        return True
    return getattr(original, "sqlstate", None) in {"22P05", "22021"}


def _by_state(state: str) -> Step:
    """By PostgreSQL's code (its manual, appendix A)."""
    if state[:2] == "28" or state == "42501":
        return Step.BIND
    if state in {"57014", "55P03", "40P01"}:
        return Step.SILENT
    return Step.CONNECT if state[:2] in {"08", "53", "57"} else Step.ANSWER


def _by_text(text: str, error: SQLAlchemyError) -> Step:
    found = next((step for step, hints in _TEXTS if any(hint in text for hint in hints)), None)
    if found is not None:
        return found
    silent = isinstance(error, InterfaceError | OperationalError) and not isinstance(_original(error), sqlite3.Error)
    return Step.CONNECT if silent else Step.ANSWER


def _original(error: Exception) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
