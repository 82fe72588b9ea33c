"""``pkiserver quickstart``: from nothing to a running server, in one folder; run again, it starts at once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, run_on_reactor
from pkiserver.cli.setup.layout import DEFAULT_PORT_BASE, Layout

if TYPE_CHECKING:
    from pkiserver.runtime.config import NodeSettings

UNFINISHED = ".setting-up"
"""Marks a folder that only a set-up has touched, which holds a lock on it: without one, it can be made anew.

What is written in it marks the database of that set-up, which can be made anew as well.
"""
UNUSABLE = re.compile(r"[#?\x00-\x1f\x7f]")
"""Characters of paths that SoftHSM's configuration (``#``), URLs of SQLite files (``?``) or text files have not."""


@click.command("quickstart")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("instance"),
    show_default=True,
    help="The instance's folder: keys, database, configuration.",
)
@click.option(
    "--port-base",
    type=click.IntRange(1024, 65535 - 636),
    default=None,
    help="Ports are this plus 80 (HTTP), 443 (HTTPS), 389 and 636 (LDAP), 90 (management), 91 (its API). "
    f"Default {DEFAULT_PORT_BASE}; kept from set-up.",
)
@click.option("--workers", type=click.IntRange(1, 256), help="Serving processes. Default: one for each core.")
@click.option("--database", metavar="URL", help="postgresql://... instead of SQLite in the folder.")
@click.option("--setup-only", is_flag=True, help="Set up and print, but do not start.")
@click.pass_obj
def command(  # noqa: PLR0917 - click calls it by name
    session: Session,
    directory: Path,
    port_base: int | None,
    workers: int | None,
    database: str | None,
    setup_only: bool,
) -> None:
    """Set up a token, two CAs and a configuration, and start the server."""
    directory = directory.absolute()
    if found := UNUSABLE.search(str(directory)):
        raise click.BadParameter(f"no folder with {found[0]!r} in its path can be used", param_hint="--dir")
    layout = Layout(directory, _port_base(directory, port_base))
    session.config = layout.config
    if layout.finished.exists():
        from pkiserver.cli.setup.moved import follow

        follow(layout)
        _upgrade(layout)
    else:
        with _alone(directory):
            _set_up(layout, workers, database)
    _check_ports(layout)
    from pkiserver.cli.setup.walk import show

    show(layout)
    sys.stdout.flush()
    if not setup_only:
        _serve(layout)


def _port_base(directory: Path, wanted: int | None) -> int:
    """The ports are chosen once: they stand in certificates."""
    marker = directory / ".set-up"
    if not marker.exists():
        return wanted or DEFAULT_PORT_BASE
    kept = int(marker.read_text(encoding="ascii"))
    if wanted is not None and wanted != kept:
        raise click.ClickException(f"{directory} was set up with --port-base {kept}, which stands in its certificates")
    return kept


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """The folder for this process alone, emptied of what an interrupted set-up left in it."""
    marker = directory / UNFINISHED
    if not marker.exists() and directory.exists() and any(directory.iterdir()):
        raise click.ClickException(f"{directory} holds something else: choose another folder with --dir")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with marker.open("a", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException(f"{directory} is being set up by another process at this moment") from None
        if not lock.tell():
            lock.write(secrets.token_hex(16))
            lock.flush()
        yield


def _set_up(layout: Layout, workers: int | None, database: str | None) -> None:
    from pkiserver.cli.setup import files

    directory = layout.directory
    if layout.finished.exists():  # by the process that had the folder a moment ago
        (directory / UNFINISHED).unlink(missing_ok=True)
        return
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != UNFINISHED:
            path.unlink()
    click.echo(f"Setting up in {directory}", err=True)
    files.make_folders(layout)
    store = files.make_key_store(layout)
    if not hasattr(store, "module"):
        click.secho("WARNING: no PKCS#11 library was found; keys are kept in encrypted files.", fg="red", err=True)
    files.write_settings(layout, store, str(workers) if workers else '"cores"', database)
    from pkiserver.runtime.configfile import load_settings

    settings = load_settings(layout.config)
    mark = (directory / UNFINISHED).read_text(encoding="ascii")
    run_on_reactor(lambda: _fill(layout, settings, mark))
    layout.schema.write_text(_newest_schema(), encoding="ascii")
    layout.finished.write_text(f"{layout.port_base}\n", encoding="ascii")
    (directory / UNFINISHED).unlink()


def _newest_schema() -> str:
    """The revision that this program needs, by its migrations' names: without loading what would run them."""
    import pkiserver

    versions = Path(pkiserver.__path__[0]) / "store" / "migrations" / "versions"
    return max(path.name[:4] for path in versions.glob("[0-9]*.py"))


def _upgrade(layout: Layout) -> None:
    """Bring the database to this program's schema where it is older, after a copy of it where it is SQLite."""
    newest = _newest_schema()
    if layout.schema.exists() and layout.schema.read_text(encoding="ascii") == newest:
        return
    from pkiserver.authority.recover import require_nobody
    from pkiserver.foundation.clock import SystemClock
    from pkiserver.runtime.configfile import load_settings
    from pkiserver.store.migrate import inspect, migrate

    url = load_settings(layout.config).database.full_url()
    found = inspect(url).found
    if found is None or found < newest:
        click.echo(f"Bringing the database from schema {found} to {newest}", err=True)
        if layout.database.exists():
            _copy(url, layout.directory / f"pkiserver.db.before-{newest}")
    # which refuses one of a newer program
    migrate(url, admit=lambda connection: require_nobody(connection, now=SystemClock().now()))
    layout.schema.write_text(newest, encoding="ascii")


def _copy(url: str, target: Path) -> None:
    """Copy the SQLite database, in place of what an upgrade left that was interrupted."""
    from pkiserver.store.backup import backup

    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    backup(url, part)
    part.replace(target)


async def _fill(layout: Layout, settings: NodeSettings, mark: str) -> None:
    """The database, the authorities, the templates, the TLS certificate, the account."""
    from twisted.internet.threads import deferToThread

    from pkiserver.cli.setup import authorities, timestamps
    from pkiserver.foundation.clock import SystemClock
    from pkiserver.runtime.engine import open_engine
    from pkiserver.store.beginnings import begin

    click.echo("  database", err=True)
    await deferToThread(begin, settings.database.full_url(), mark, now=SystemClock().now())
    async with open_engine(settings, worker="quickstart") as engine:
        click.echo("  root and issuing CA, keys born in the token", err=True)
        await authorities.create_authorities(engine, layout)
        click.echo("  certificate templates", err=True)
        await authorities.load_templates(engine)
        click.echo("  TLS certificate, demonstration account", err=True)
        await authorities.create_tls_certificate(engine, layout)
        await authorities.create_account(engine, layout)
        click.echo("  time-stamping unit", err=True)
        await timestamps.create_unit(engine)


def _check_ports(layout: Layout) -> None:
    """Tell of a taken port before anything is printed that would not work."""
    taken = []
    ports = [layout.http_port, layout.https_port, layout.ldap_port, layout.ldaps_port, layout.management_port]
    for port in (*ports, layout.api_port) if layout.has_api else ports:
        with contextlib.closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken.append(str(port))
    if taken:
        raise click.ClickException(
            f"port {', '.join(taken)} is in use: stop what listens there, or choose others with --dir DIR --port-base N"
        )


def _serve(layout: Layout) -> None:
    """Become twistd, so that Ctrl-C and signals reach the server itself."""
    twistd = Path(sys.executable).parent / "twistd"
    arguments = [str(twistd), "-n", "--pidfile=", "pkiserver", "--config", str(layout.config)]
    os.chdir(layout.directory)
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 - no shell is wanted
