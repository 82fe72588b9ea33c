"""``pkiserver config``: check a node configuration, or print a commented one."""

from __future__ import annotations

from importlib.resources import files

import click

from pkiserver.cli.context import Session


@click.group("config")
def group() -> None:
    """Check a node configuration, or print a commented one."""


@group.command("check")
@click.pass_obj
def check(session: Session) -> None:
    """Check the configuration file: exit code 0, or every problem with its line."""
    path = session.config_path()
    session.settings()
    session.output.done(f"{path}: is fine", file=str(path), fine=True)


@group.command("example")
@click.pass_obj
def example(session: Session) -> None:
    """Print a complete, commented configuration to begin with."""
    session.output.raw(files("pkiserver.runtime").joinpath("example.toml").read_text(encoding="utf-8"))
