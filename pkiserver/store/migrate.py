"""Bring a database's schema to this program's: Alembic, run from code, its revisions packaged with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from sqlalchemy import Connection, text
from sqlalchemy import inspect as look_into
from sqlalchemy.exc import SQLAlchemyError

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.engines import is_sqlite, migrating_engine, parse_url, reading_engine, sqlite_path
from pkiserver.store.failures import as_domain_error

if TYPE_CHECKING:
    from alembic.config import Config

_FOLDER = Path(__file__).parent / "migrations"


@attrs.frozen
class Migration:
    """What :func:`migrate` did: revisions before and after; ``before`` is None for a new database."""

    before: str | None
    after: str


def head_revision() -> str:
    """The revision that this program needs."""
    # by the file names, which a test holds against the chain: loading Alembic for it would slow every command down
    return max(path.name[:4] for path in (_FOLDER / "versions").glob("[0-9]*.py"))


def revision_of(connection: Connection) -> str | None:
    """The revision of the database behind the connection; None when it is empty."""
    if not look_into(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
    return None if found is None else str(found)


def require_current(connection: Connection) -> None:
    """Refuse a database whose schema is not this program's.

    Raises:
        Rejected: with :data:`Refusal.CONFIGURATION`, saying what to do.
    """
    found, needed = revision_of(connection), head_revision()
    if found == needed:
        return
    _refuse_newer(found)
    state = "is empty" if found is None else f"has schema {found}, this program needs {needed}"
    advice = "run `pkiserver database migrate`" + (", or restore a backup if it was not" if found is None else "")
    raise Rejected.because(Refusal.CONFIGURATION, f"the database {state}: {advice}")


def _refuse_newer(found: str | None) -> None:
    needed = head_revision()
    if found is not None and found > needed:
        text = (
            f"the database has schema {found}, of a newer program; this one knows {needed}: install the newer program"
        )
        raise Rejected.because(Refusal.CONFIGURATION, f"{text}, or restore a backup from before its upgrade")


def migrate(url: str, *, admit: Callable[[Connection], None] | None = None) -> Migration:
    """Create or upgrade the schema, all or nothing; safe when several processes start at once. Blocks.

    Args:
        url: The database.
        admit: Asked before a database that others may use is changed; raises where it must not be.

    Raises:
        Rejected: the URL is not understood, or the schema is a newer program's.
        Unavailable: the database cannot be reached.
        OSError: its file cannot be made.
    """
    from alembic import command

    parsed = parse_url(url)
    if is_sqlite(parsed):
        _make_private(sqlite_path(parsed))
    engine = migrating_engine(parsed)
    try:
        with engine.begin() as connection:
            if not is_sqlite(parsed):
                # Only spares a second process the error: revisions are transactions of their own either way.
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7215021930)")
            before = revision_of(connection)
            _refuse_newer(before)
            if admit is not None and before not in {None, head_revision()}:
                admit(connection)
            command.upgrade(_configuration(connection), "head")
            after = revision_of(connection)
    except Exception as error:
        raise as_domain_error(error) from error
    finally:
        engine.dispose()
    assert after is not None
    return Migration(before, after)


def _make_private(path: Path) -> None:
    """Where there is no database, an empty file that only its owner reads; SQLite would go by the umask.

    Hashes of passwords are in it, and the keys of marks and codes. The files beside it get its mode from SQLite.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        return
    path.touch(mode=0o600)
    if os.geteuid() == 0:
        # the server, which has an account of its own, could not open it; SQLite gives its other files the same owner
        folder = path.parent.stat()
        os.chown(path, folder.st_uid, folder.st_gid)


@attrs.frozen
class Schema:
    """Which database a URL names, and the schema found and needed; ``url`` is without its password."""

    url: str
    found: str | None
    needed: str


def inspect(url: str) -> Schema:
    """Look at a database's schema. Blocks.

    Raises:
        Rejected: the URL is not understood.
        Unavailable: the database cannot be reached.
    """
    parsed = parse_url(url)
    shown = parsed.render_as_string(hide_password=True)
    if is_sqlite(parsed) and not sqlite_path(parsed).exists():
        return Schema(shown, None, head_revision())
    engine = reading_engine(parsed, 1)
    try:
        with engine.connect() as connection:
            return Schema(shown, revision_of(connection), head_revision())
    except SQLAlchemyError as error:
        raise as_domain_error(error) from error
    finally:
        engine.dispose()


def _configuration(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
