"""``pkiserver audit``: verify, export and follow the audit log. Needs the database only, no key."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from pkiserver.cli.context import WORKER, Session, reactor_command, sleep
from pkiserver.cli.options import OUT_FILE
from pkiserver.cli.outfiles import new_file
from pkiserver.cli.selectors import MOMENT
from pkiserver.cli.voting import who

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from pkiserver.keys.algorithms import PublicKey
    from pkiserver.store.audit import EventRow
    from pkiserver.store.database import Database

POLL_SECONDS = 0.5
LINES_AT_ONCE = 1000


@click.group("audit")
def group() -> None:
    """Verify, export and follow the audit log."""


@group.command("verify")
@click.option(
    "--key",
    "key_file",
    type=click.File("rb"),
    help="The checkpoint key's public half (PEM), kept off this server; without it the database's own record is used.",
)
@reactor_command
async def verify_(session: Session, *, key_file: BinaryIO | None) -> None:
    """Check every chain and checkpoint; exit code 1 and a line for each thing that is wrong."""
    from pkiserver.audit.verify import verify
    from pkiserver.foundation.errors import Reason, Refusal, Rejected
    from pkiserver.keys.checkpoints import checkpoint_verify

    outside = None if key_file is None else key_file.read()
    async with _database(session) as database:
        report = await database.read(lambda c: verify(c, verify_signature=checkpoint_verify(_public_keys(c, outside))))
    if report.problems:
        raise Rejected(Reason(Refusal.CONFLICT, problem) for problem in report.problems)
    session.output.record(
        {
            "intact": True,
            "events": report.events,
            "chains": report.chains,
            "checkpoints": report.checkpoints,
            "events_after_the_last_checkpoint": report.unsigned,
        }
    )


@group.command("export")
@click.option("--since", type=MOMENT, help="Only events from this time on.")
@click.option("--until", type=MOMENT, help="Only events before this time.")
@click.option("--output", type=OUT_FILE, metavar="FILE", help="A new file, mode 0600; by default to the terminal.")
@reactor_command
async def export_(session: Session, *, since: datetime | None, until: datetime | None, output: Path | None) -> None:
    """Write the log as JSON lines; the export itself is logged."""
    from pkiserver.audit import AuditEvent, AuditKind, AuditLog
    from pkiserver.audit.export import export
    from pkiserver.foundation.clock import SystemClock

    settings = session.settings()

    def write(connection: Connection, file: BinaryIO) -> int:
        count = 0
        for line in export(connection, start=since, end=until):
            file.write(f"{line}\n".encode())
            count += 1
        file.flush()
        return count

    async with _database(session) as database:
        with nullcontext(sys.stdout.buffer) if output is None else new_file(output) as file:
            log = AuditLog(database, node=settings.node, worker=WORKER, clock=SystemClock())
            details = (("from", str(since or "the beginning")), ("until", str(until or "now")))
            await log.record(AuditEvent(AuditKind.EXPORT, who(), "audit log", details=details))
            count = await database.read(lambda connection: write(connection, file))
    session.output.note(f"{count} lines")


@group.command("tail")
@click.option("-n", "--lines", type=click.IntRange(0, LINES_AT_ONCE), default=20, show_default=True, help="Events.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is logged from now on, until interrupted.")
@reactor_command
async def tail(session: Session, *, lines: int, follow: bool) -> None:
    """Show the newest events, of all nodes and workers."""
    from pkiserver.store.audit import newest_events

    show = _shower(session)
    async with _database(session) as database:
        rows = await database.read(lambda c: newest_events(c, limit=max(lines, 1)))
        for row in rows[-lines:] if lines else ():
            show(row)
        last = (rows[-1].at, rows[-1].writer_id, rows[-1].seq) if rows else (0, 0, 0)
        while follow:
            await sleep(POLL_SECONDS)
            rows = await database.read(functools.partial(newest_events, limit=LINES_AT_ONCE, after=last))
            for row in rows:
                show(row)
                last = (row.at, row.writer_id, row.seq)


def _shower(session: Session) -> Callable[[EventRow], None]:
    from pkiserver.audit.export import event_line, text_line

    def show(row: EventRow) -> None:
        click.echo(event_line(row) if session.json else text_line(row))

    return show


@asynccontextmanager
async def _database(session: Session) -> AsyncIterator[Database]:
    from pkiserver.store.database import Database

    database = await Database.open(session.settings().database.full_url(), readers=1, writing=False)
    try:
        yield database
    finally:
        await database.close()


def _public_keys(connection: Connection, outside: bytes | None) -> Callable[[str], PublicKey | None]:
    """Finds the keys of checkpoints: the one that was given, or those that the database records."""
    from pkiserver.keys.algorithms import load_spki
    from pkiserver.store.authority import keys

    if outside is not None:
        given = load_spki(outside, pem=True)
        return lambda _name: given

    @functools.cache
    def recorded(name: str) -> PublicKey | None:
        record = keys.get(connection, name)
        return None if record is None else load_spki(record.spki)

    return recorded
