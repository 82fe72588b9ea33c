"""``pkiserver database``: create or upgrade the schema, and show what is there."""

from __future__ import annotations

from pathlib import Path

import click

from pkiserver.cli.context import Session
from pkiserver.cli.options import OUT_FILE


@click.group("database")
def group() -> None:
    """Create, upgrade, look at or back up the database."""


@group.command("migrate")
@click.pass_obj
def migrate_(session: Session) -> None:
    """Bring the schema to this program's, all or nothing. Stop the server on every node first, and back up."""
    from pkiserver.authority.recover import require_nobody
    from pkiserver.foundation.clock import SystemClock
    from pkiserver.store.migrate import migrate

    done = migrate(
        session.settings().database.full_url(),
        admit=lambda connection: require_nobody(connection, now=SystemClock().now()),
    )
    if done.before == done.after:
        text = f"the schema is {done.after} already"
    else:
        text = f"the schema was {done.before or 'empty'} and is {done.after} now"
    session.output.done(text, before=done.before, after=done.after)


@group.command("show")
@click.pass_obj
def show(session: Session) -> None:
    """Show which database is used and which schema it has."""
    from pkiserver.store.migrate import inspect

    schema = inspect(session.settings().database.full_url())
    session.output.record({"database": schema.url, "schema": schema.found, "needed": schema.needed})


@group.command("backup")
@click.argument("target", type=OUT_FILE)
@click.pass_obj
def backup_(session: Session, target: Path) -> None:
    """Copy the SQLite database to TARGET while the server runs: one consistent state, mode 0600."""
    from pkiserver.store.backup import backup

    octets = backup(session.settings().database.full_url(), target)
    session.output.done(f"Copied to {target} ({octets} octets)", file=str(target), octets=octets)
