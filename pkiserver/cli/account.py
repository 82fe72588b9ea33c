"""``pkiserver account``: accounts that may enrol with a password."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import after_option, file_argument, limit_option, password_option
from pkiserver.cli.selectors import parse_pairs, read_text
from pkiserver.cli.typing_in import typed
from pkiserver.cli.voting import who

if TYPE_CHECKING:
    from pkiserver.foundation.secret import Secret
    from pkiserver.runtime.engine import Engine
    from pkiserver.store.registration.accounts import Account


@click.group()
def group() -> None:
    """Accounts that may enrol with a password."""


def _row(account: Account) -> dict[str, object]:
    return {
        "name": account.name,
        "groups": tuple(sorted(account.groups)),
        "attributes": tuple(f"{key}={value}" for key, value in account.attributes),
        "password": account.password_hash is not None,
        "disabled": account.disabled,
        "created": account.created,
    }


def read_password(file: Path | None, *, confirm: bool = True) -> Secret:
    """From a file (without its last line end), or typed (twice); never from the command line, which others see."""
    from pkiserver.foundation.secret import Secret

    if file is not None:
        return Secret(file.read_bytes().removesuffix(b"\n").removesuffix(b"\r"))
    return Secret(typed("Password", option="--password-file", confirm=confirm))


attribute_option = click.option("--attribute", "attributes", multiple=True, metavar="NAME=VALUE", help="Repeatable.")
group_option = click.option("--group", "groups", multiple=True, metavar="NAME", help="Repeatable; '': none.")


@group.command()
@click.argument("name")
@group_option
@attribute_option
@password_option
@click.option("--no-password", is_flag=True, help="It enrols by codes and certificates only.")
@async_command
async def create(
    session: Session,
    engine: Engine,
    *,
    name: str,
    groups: tuple[str, ...],
    attributes: tuple[str, ...],
    password_file: Path | None,
    no_password: bool,
) -> None:
    """Create an account."""
    pairs = parse_pairs(attributes, "--attribute")
    password = None if no_password else read_password(password_file)
    made = await engine.accounts.create(name, password, groups=frozenset(groups) - {""}, attributes=pairs, by=who())
    session.output.done(f"Account {made.name} created", **_row(made))


@group.command("import")
@file_argument
@click.option("--format", "form", type=click.Choice(["csv", "ldif"]), help="Default: by the file's name.")
@click.option("--replace", is_flag=True, help="The accounts become exactly what the file says; others are removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Show the difference and change nothing.")
@async_command
async def import_(
    session: Session, engine: Engine, *, file: Path, form: str | None, replace: bool, yes: bool, dry_run: bool
) -> None:
    """Add and update accounts from a CSV or LDIF file, after showing the difference; all of it or nothing."""
    from pkiserver.cli.apply import agreed
    from pkiserver.registration.accountfiles import Format, read
    from pkiserver.registration.accountimport import AccountImport

    text = read_text(file)
    wanted = read(text, str(file), Format(form or ("ldif" if file.suffix.lower() == ".ldif" else "csv")))
    work = AccountImport(engine.database, engine.audit, engine.accounts.hasher, engine.clock)
    plan = await work.plan(wanted, replace=replace)
    for change in plan.changes:
        session.output.message("\n".join([f"{change.what} account {change.name}", *change.difference(), ""]))
    applied = bool(plan.changes) and not dry_run and agreed(session, yes=yes)
    if applied:
        await work.apply(plan, by=who())
    count = len(plan.changes)
    text = f"{count} changed" if applied else f"{count} would change; none changed" if count else "nothing to change"
    session.output.done(
        f"{text} ({plan.unchanged} as they should be)",
        applied=applied,
        unchanged=plan.unchanged,
        changes=[{"name": one.name, "change": one.what, "difference": one.difference()} for one in plan.changes],
    )


@group.command("export")
@click.option(
    "--format", "form", type=click.Choice(["csv", "ldif"]), default="csv", show_default=True, help="What is written."
)
@async_command
async def export(session: Session, engine: Engine, *, form: str) -> None:
    """Write all accounts as import reads them; without passwords and their hashes."""
    from pkiserver.registration.accountfiles import Format, write
    from pkiserver.registration.accountimport import AccountImport

    work = AccountImport(engine.database, engine.audit, engine.accounts.hasher, engine.clock)
    session.output.raw(write(await work.export(by=who()), Format(form)))


@group.command("list")
@after_option
@limit_option
@async_command
async def list_(session: Session, engine: Engine, after: str, limit: int) -> None:
    """Accounts by name."""
    page = await engine.accounts.list_page(after=after, limit=limit)
    session.output.page([_row(one) for one in page], limit=limit, onward="--after", empty="no accounts")


@group.command()
@click.argument("name")
@async_command
async def show(session: Session, engine: Engine, name: str) -> None:
    """One account."""
    session.output.record(_row(await engine.accounts.get(name)))


@group.command()
@click.argument("name")
@password_option
@async_command
async def password(session: Session, engine: Engine, name: str, password_file: Path | None) -> None:
    """Set a new password."""
    await engine.accounts.set_password(name, read_password(password_file), by=who())
    session.output.done(f"Password of {name} set", name=name)


@group.command("set")
@click.argument("name")
@group_option
@attribute_option
@async_command
async def set_(
    session: Session, engine: Engine, name: str, groups: tuple[str, ...], attributes: tuple[str, ...]
) -> None:
    """Replace the groups or the attributes; what is not given stays."""
    pairs = parse_pairs(attributes, "--attribute")
    await engine.accounts.set_details(
        name, groups=frozenset(groups) - {""} if groups else None, attributes=pairs or None, by=who()
    )
    session.output.done(f"Account {name} changed", **_row(await engine.accounts.get(name)))


@group.command()
@click.argument("name")
@async_command
async def disable(session: Session, engine: Engine, name: str) -> None:
    """Neither its password nor its certificates show anybody any more."""
    await engine.accounts.set_disabled(name, True, by=who())
    session.output.done(f"Account {name} disabled", name=name)


@group.command()
@click.argument("name")
@async_command
async def enable(session: Session, engine: Engine, name: str) -> None:
    """Undo disable."""
    await engine.accounts.set_disabled(name, False, by=who())
    session.output.done(f"Account {name} enabled", name=name)


@group.command()
@click.argument("name")
@async_command
async def delete(session: Session, engine: Engine, name: str) -> None:
    """Remove an account; its certificates stay what they are."""
    await engine.accounts.delete(name, by=who())
    session.output.done(f"Account {name} deleted", name=name)
