"""``pkiserver connector``: the connectors in force, and whether each can do what it should."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.account import read_password
from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import IN_FILE, password_option
from pkiserver.cli.selectors import read_octets

if TYPE_CHECKING:
    from pkiserver.foundation.secret import Secret
    from pkiserver.registration.connectors.settings import Connector
    from pkiserver.registration.connectors.values import Finding
    from pkiserver.runtime.engine import Engine


@click.group()
def group() -> None:
    """Connectors to directories, RADIUS servers, databases, web services, other authorities. Apply changes them."""


def _row(connector: Connector) -> dict[str, object]:
    return {
        "name": connector.name,
        "connects_to": connector.connects_to,
        "enabled": connector.enabled,
        "description": connector.description,
    }


@group.command("list")
@async_command
async def list_(session: Session, engine: Engine) -> None:
    """The connectors in force."""
    for problem in engine.connectors.problems():
        session.output.note(f"not usable: {problem.text}")
    rows = [{**_row(one), "used_by": _users(engine, one.name)} for one in engine.connectors.list()]
    session.output.table(rows, empty="no connectors; pkiserver apply adds some")


def _users(engine: Engine, name: str) -> tuple[str, ...]:
    return tuple(
        one.template.name
        for one in engine.templates.list()
        if any(name in rule.connectors for rule in one.template.evidence)
    )


@group.command()
@click.argument("name")
@async_command
async def show(session: Session, engine: Engine, name: str) -> None:
    """One connector: what is known of it, and the TOML that apply was given."""
    live = engine.connectors.get(name)
    row = {**_row(live.settings), "used_by": _users(engine, name), "revision": live.row.revision}
    session.output.record({**row, "toml": live.row.toml} if session.json else row)
    if not session.json:
        session.output.raw(f"\n{live.row.toml}")


@group.command()
@click.argument("name")
@click.option("--user", metavar="NAME", help="Look for this user too.")
@click.option("--password", "ask", is_flag=True, help="Ask for the user's password and try it.")
@password_option
@click.option(
    "--certificate",
    type=IN_FILE,
    metavar="FILE",
    help="Try this client certificate (PEM, with its chain).",
)
@async_command
async def check(
    session: Session,
    engine: Engine,
    *,
    name: str,
    user: str | None,
    ask: bool,
    password_file: Path | None,
    certificate: Path | None,
) -> None:
    """Try a connector: each server by itself, then the user. Exit code 1 where anything is wrong."""
    password: Secret | None = None
    if ask or password_file is not None:
        if user is None:
            raise click.UsageError("a password goes with --user")
        password = read_password(password_file, confirm=False)
    octets = read_octets(certificate) if certificate is not None else b""
    if not engine.connectors.get(name).settings.enabled:
        session.output.note(f"connector {name} is switched off (enabled = false) and vouches for nobody")
    findings = list(await engine.connectors.check(name, user, password))
    if certificate is not None:
        findings.append(await _try_certificate(engine, name, certificate.name, octets))
    session.output.table(
        [{"server": one.server, "finding": one.step, "detail": one.text} for one in findings], empty="nothing to check"
    )
    if not all(one.fine for one in findings):
        raise click.exceptions.Exit(1)


async def _try_certificate(engine: Engine, name: str, file: str, octets: bytes) -> Finding:
    from cryptography import x509

    from pkiserver.foundation.errors import Unavailable
    from pkiserver.foundation.unreadable import UNREADABLE
    from pkiserver.registration.connectors.credentials import outcome_finding
    from pkiserver.registration.connectors.values import Finding, Step

    try:
        first, *chain = x509.load_pem_x509_certificates(octets)
    except UNREADABLE as error:
        raise click.BadParameter(f"{file} holds no PEM certificate", param_hint="--certificate") from error
    try:
        outcome = await engine.connectors.identify(name, first, tuple(chain))
    except Unavailable as error:
        return Finding(Step.ANSWER, file, error.text)
    if outcome is None:
        raise click.UsageError(f"connector {name} does not deal with certificates")
    return outcome_finding(file, outcome)


@group.command()
@click.argument("name")
@click.argument("user")
@click.option("--old-password-file", type=IN_FILE, required=True, help="Read the old password from here.")
@click.option("--new-password-file", type=IN_FILE, required=True, help="Read the new password from here.")
@async_command
async def password(
    session: Session, engine: Engine, *, name: str, user: str, old_password_file: Path, new_password_file: Path
) -> None:
    """Change a user's password in an LDAP directory, an expired one too."""
    from pkiserver.cli.voting import who

    old, new = read_password(old_password_file), read_password(new_password_file)
    await engine.connectors.change_password(name, user, old, new, by=who())
    session.output.done(f"Password of {user} changed", connector=name, user=user)
