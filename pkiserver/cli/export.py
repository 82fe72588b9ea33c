"""``pkiserver export``: write the database's configuration objects as TOML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command
from pkiserver.cli.outfiles import write_file

if TYPE_CHECKING:
    from pkiserver.runtime.engine import Engine


@click.command()
@click.argument("wanted", nargs=-1, metavar="[KIND/NAME]...")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write each object to DIR/KIND/NAME.toml.",
)
@async_command
async def command(session: Session, engine: Engine, *, wanted: tuple[str, ...], directory: Path | None) -> None:
    """Write configuration objects as TOML that apply reads: one to the terminal, or any number to a directory."""
    from pkiserver.authority.configuration import Configuration
    from pkiserver.authority.documents import Key
    from pkiserver.cli.voting import who

    keys = [Key.parse(text) for text in wanted]
    if directory is None and len(keys) != 1:
        raise click.UsageError("name one object (template/tls-server), or give --dir DIR")
    configuration = Configuration(engine.database, engine.audit, engine.clock)
    found = await configuration.export(by=who(), wanted=keys)
    if directory is None:
        session.output.raw(found[0][1])
        return
    rows = []
    for key, text in found:
        file = directory / str(key.kind) / f"{key.name}.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(session.output, file, text.encode())
        rows.append({"kind": key.kind, "name": key.name, "file": file})
    session.output.table(rows, empty="nothing to export")
