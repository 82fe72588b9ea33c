"""``pkiserver apply``: make the database as TOML files say, after showing the difference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command
from pkiserver.cli.typing_in import interruptible
from pkiserver.cli.voting import voter, voter_options, who

if TYPE_CHECKING:
    from pkiserver.authority.configuration import Change, Plan
    from pkiserver.authority.documents import Readers
    from pkiserver.runtime.engine import Engine

LARGEST_FILE = 1024 * 1024
"""Octets of a configuration file."""


def read_files(paths: tuple[Path, ...]) -> list[tuple[str, str]]:
    """Names and texts of files; of a directory, its ``*.toml`` files by name.

    Raises:
        ConfigurationError: with every file that cannot be read or is not UTF-8.
    """
    from pkiserver.foundation.tomlfile import ConfigurationError, Problem

    files: list[tuple[str, str]] = []
    problems = []
    for path in paths:
        found = sorted(path.glob("*.toml")) if path.is_dir() else [path]
        if not found:
            problems.append(Problem(str(path), 1, "", "is a directory without *.toml files"))
        for file in found:
            try:
                data = file.read_bytes()
                if len(data) > LARGEST_FILE:
                    problems.append(Problem(str(file), 1, "", f"has more than {LARGEST_FILE} octets"))
                else:
                    files.append((str(file), data.decode()))
            except OSError as error:
                problems.append(Problem(str(file), 1, "", f"cannot be read: {error.strerror}"))
            except UnicodeDecodeError:
                problems.append(Problem(str(file), 1, "", "is not UTF-8"))
    if problems:
        raise ConfigurationError(problems)
    return files


def _coloured(difference: str) -> str:
    from pkiserver.cli.output import printable

    colours = {"+": "green", "-": "red", "@": "cyan"}
    lines = (
        click.style(printable(line), fg=colours.get(line[:1])) if line[:1] in colours else printable(line)
        for line in difference.split("\n")
    )
    return "\n".join(lines)


def _show(session: Session, plan: Plan) -> None:
    if session.json:
        return
    for change in plan.changes:
        click.echo(click.style(f"{change.what} {change.key}", bold=True))
        click.echo(_coloured(change.difference()) + "\n")
    for note in plan.notes:
        session.output.note(f"note: {note}")


def _row(change: Change) -> dict[str, object]:
    return {
        "kind": change.key.kind,
        "name": change.key.name,
        "change": change.what,
        "difference": change.difference(),
    }


def agreed(session: Session, *, yes: bool) -> bool:
    """Whether the person at the terminal wants it; ``yes``: they said so already."""
    if yes:
        return True
    if session.json or not sys.stdin.isatty():
        raise click.UsageError("nobody is there to be asked: say --yes, or --dry-run to look only")
    with interruptible():
        return click.confirm("Make these changes?", default=False)


def _readers() -> Readers:
    """How the rooms above the authorities read their own kinds of object."""
    from pkiserver.authority.documents import Kind
    from pkiserver.authority.validation.settings import load_foreign
    from pkiserver.publication.outward.settings import load_directory
    from pkiserver.registration.connectors.settings import load_connector
    from pkiserver.timestamping.unit import load_unit

    return {
        Kind.TIMESTAMP_UNIT: load_unit,
        Kind.CONNECTOR: load_connector,
        Kind.FOREIGN_CA: load_foreign,
        Kind.DIRECTORY: load_directory,
    }


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path(path_type=Path, exists=True))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@click.option("--delete", "deleted", multiple=True, metavar="KIND/NAME", help="Remove an object, e.g. template/old.")
@click.option("--prune", is_flag=True, help="Remove the templates that no FILE describes.")
@click.option("--reason", default="", help="For those who vote, where templates are under dual control.")
@voter_options
@async_command
async def command(
    session: Session,
    engine: Engine,
    *,
    files: tuple[Path, ...],
    yes: bool,
    dry_run: bool,
    deleted: tuple[str, ...],
    prune: bool,
    reason: str,
    credential: Path | None,
    password_file: Path | None,
) -> None:
    """Make the database as these TOML files say, after showing the difference; all of it or nothing.

    A FILE describes one template, one connector, one time-stamping unit, one foreign CA, one directory to publish to
    or the settings of one authority; of a directory every *.toml file is taken.
    """
    from pkiserver.authority.configuration import Configuration
    from pkiserver.authority.documents import Key, Kind, read_documents

    if not files and not deleted:
        raise click.UsageError("name files, or objects to --delete")
    if prune and not files:
        raise click.UsageError("--prune without files would remove every template")
    documents = read_documents(read_files(files), _readers())
    configuration = Configuration(engine.database, engine.audit, engine.clock)
    plan = await configuration.plan(documents, remove=[Key.parse(text) for text in deleted], prune=prune)
    _show(session, plan)
    applied = bool(plan.changes) and not dry_run and agreed(session, yes=yes)
    if applied and engine.operations.rules.templates and any(one.key.kind is Kind.TEMPLATE for one in plan.changes):
        by = await voter(engine, credential, password_file)
        asked = await engine.dual_control.ask_to_change(plan, why=reason, by=by)
        numbers = [one.number for one in asked]
        text = f"none changed yet: waiting for approval: operation {', '.join(map(str, numbers))}"
        session.output.done(text, applied=False, operations=numbers)
        return
    if applied:
        await configuration.apply(plan, by=who())
    count = len(plan.changes)
    if not count:
        text = f"nothing to change ({plan.unchanged} as they should be)"
    else:
        text = f"{count} changed, {plan.unchanged} as they were" if applied else f"{count} would change; none changed"
    session.output.done(
        text,
        applied=applied,
        unchanged=plan.unchanged,
        changes=[_row(change) for change in plan.changes],
        notes=plan.notes,
    )
