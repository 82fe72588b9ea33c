"""An instance whose folder was moved, with its checkout for instance: its settings follow."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click

from pkiserver.cli.setup.files import quoted
from pkiserver.cli.setup.layout import Layout


def follow(layout: Layout) -> None:
    """Let the settings of a moved instance name its files where they are now.

    Raises:
        click.ClickException: it is a copy beside its original, whose files the settings name; or its keys' places are
            in the database.
    """
    before = tomllib.loads(layout.config.read_text(encoding="utf-8")).get("state_dir")
    if not isinstance(before, str) or not Path(before).is_absolute():
        return  # whoever wrote that knows where the files are
    old = Path(before)
    if old.exists():
        if (old / layout.finished.name).exists() and not old.samefile(layout.directory):
            raise click.ClickException(f"{layout.directory} is a copy: its settings name the files of {old}")
        return
    if layout.keys.exists():
        raise click.ClickException(f"{layout.directory} was {old}, where its key files are looked for: move it back")
    click.echo(f"{layout.directory} was {old}: its settings follow", err=True)
    _replace(layout.config, quoted(old)[1:-1], quoted(layout.directory)[1:-1])
    _replace(layout.token / "softhsm2.conf", str(old), str(layout.directory))


def _replace(file: Path, old: str, new: str) -> None:
    """Write a path anew wherever the file has it, in one step."""
    if not file.exists():
        return
    part = file.with_name(f"{file.name}.part")
    part.touch(mode=file.stat().st_mode & 0o777)
    text = file.read_text(encoding="utf-8")
    part.write_text(re.sub(re.escape(old) + r'(?=[/"\n])', lambda _: new, text), encoding="utf-8")
    part.replace(file)
