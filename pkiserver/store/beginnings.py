"""Who fills a new database: one set-up at a time, which may begin anew after it was interrupted.

What an interrupted set-up left in a database is of no use to the next one: the keys are in a token that is made anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import SQLAlchemyError

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store import leases
from pkiserver.store.engines import migrating_engine, parse_url
from pkiserver.store.failures import as_domain_error
from pkiserver.store.migrate import inspect, migrate
from pkiserver.store.schema.authorities import authority
from pkiserver.store.schema.columns import metadata

_NAME = "set-up"
_FOR_GOOD = timedelta(days=36500)


def begin(url: str, mark: str, *, now: datetime) -> None:
    """Make the schema in a database that is empty or was begun under the same mark; blocks.

    Args:
        url: The database.
        mark: What only this set-up knows, the same when it is tried again.
        now: The present, for the claim's row.

    Raises:
        Rejected: CONFLICT where the database holds something else; as :func:`migrate`.
        Unavailable: it is away.
    """
    engine = migrating_engine(parse_url(url))
    try:
        if inspect(url).found is not None:
            with engine.begin() as connection:
                _empty_own(connection, mark)
        migrate(url)
        with engine.begin() as connection:
            if leases.acquire(connection, _NAME, mark, now=now, lasting=_FOR_GOOD) is None:
                raise _taken()
    except SQLAlchemyError as error:
        raise as_domain_error(error) from error
    finally:
        engine.dispose()


def _taken() -> Rejected:
    text = "the database is in use, or another set-up of it was interrupted: give one that is empty (dropdb, createdb)"
    return Rejected.because(Refusal.CONFLICT, text)


def _empty_own(connection: Connection, mark: str) -> None:
    """Drop what was begun under this mark; refuse what others made."""
    held = leases.get(connection, _NAME)
    if held is not None and held.holder == mark:
        metadata.drop_all(connection)
        connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
    elif held is not None or connection.execute(select(authority.c.name).limit(1)).first() is not None:
        raise _taken()
