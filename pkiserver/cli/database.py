"""``pkiserver database``: create or upgrade the schema, and show what is there."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import attrs
import click

from pkiserver.cli.context import WORKER, Session, reactor_command
from pkiserver.cli.options import OUT_FILE
from pkiserver.cli.voting import who


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
@reactor_command
async def backup_(session: Session, target: Path) -> None:
    """Copy the SQLite database to TARGET while the server runs: one consistent state, mode 0600. It is logged."""
    from threading import Event

    from twisted.internet.threads import deferToThread

    from pkiserver.audit import AuditEvent, AuditKind, AuditLog
    from pkiserver.foundation.clock import SystemClock
    from pkiserver.foundation.errors import PkiError, Rejected
    from pkiserver.store.backup import backup, require_possible
    from pkiserver.store.database import Database

    settings, clock, left = session.settings(), SystemClock(), Event()
    url = settings.database.full_url()
    require_possible(url, target)
    event = AuditEvent(AuditKind.EXPORT, who(), "database", details=(("file", _place(target)),))
    async with AsyncExitStack() as open_now:
        log = None
        try:
            database = await Database.open(url, readers=1)
        except Rejected as error:  # of another program, which may be about to upgrade it: no reason to have no copy
            session.output.note(f"This is not in the audit log: {error}")
        else:
            open_now.push_async_callback(database.close)
            log = AuditLog(database, node=settings.node, worker=WORKER, clock=clock)
            await log.record(event)  # before, so that the copy has it too
        try:
            octets = await deferToThread(backup, url, target, at=clock.now(), given_up=left.is_set)
        except (PkiError, OSError) as error:
            if log is not None:
                details = (*event.details, ("why", str(error)))
                await log.record(attrs.evolve(event, outcome="failed", details=details))
            raise
        finally:
            left.set()  # after Ctrl-C the thread is still copying; the process ends when it has removed its file
    session.output.done(f"Copied to {target} ({octets} octets)", file=str(target), octets=octets)


def _place(target: Path) -> str:
    return str(target.absolute())
