"""``pkiserver template``: list and show templates, and try a request against one without issuing anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import IN_FILE
from pkiserver.cli.selectors import parse_pairs, read_octets, read_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pkiserver.authority.requests import RegistrationRecord
    from pkiserver.authority.templates.model import EvidenceRule, Template
    from pkiserver.runtime.engine import Engine


@click.group()
def group() -> None:
    """Certificate templates: list, show, test. They are changed by apply."""


@group.command("list")
@click.option("--ready", is_flag=True, help="Those that ship with the program, not those in force.")
@click.pass_context
def list_(ctx: click.Context, ready: bool) -> None:
    """The templates in force, or those that ship with the program."""
    ctx.invoke(_list_ready if ready else _list_in_force)


@click.command()
@click.pass_obj
def _list_ready(session: Session) -> None:
    from pkiserver.authority.templates.library import ready_names, ready_template

    session.output.table([_row(ready_template(name)) for name in ready_names()])


@click.command()
@async_command
async def _list_in_force(session: Session, engine: Engine) -> None:
    rows = [{**_row(one.template), "revision": one.row.revision} for one in engine.templates.list()]
    for problem in engine.templates.problems():
        session.output.note(f"not usable: {problem.text}")
    session.output.table(rows, empty="no templates; pkiserver apply adds some")


def _row(template: Template) -> dict[str, object]:
    validity = template.validity
    return {
        "name": template.name,
        "issuer": template.issuer,
        "enabled": template.enabled,
        "protocols": ", ".join(template.protocols),
        "keys": ", ".join(map(str, template.keys)),
        "validity": validity.duration if validity.duration is not None else validity.not_after,
        "description": template.description,
    }


@group.command()
@click.argument("name", metavar="TEMPLATE")
@click.option("--ready", is_flag=True, help="The one that ships with the program, not the one in force.")
@click.pass_context
def show(ctx: click.Context, name: str, ready: bool) -> None:
    """Print a template as TOML, ready to be edited and applied."""
    ctx.invoke(_show_ready if ready else _show_in_force, name=name)


@click.command()
@click.argument("name")
@click.pass_obj
def _show_ready(session: Session, name: str) -> None:
    from pkiserver.authority.templates.library import ready_template, ready_text

    _print(session, ready_template(name), ready_text(name), None)


@click.command()
@click.argument("name")
@async_command
async def _show_in_force(session: Session, engine: Engine, name: str) -> None:
    engine.templates.get(name)
    found = next(one for one in engine.templates.list() if one.template.name == name)
    _print(session, found.template, found.row.toml, found.row.revision)


def _print(session: Session, template: Template, text: str, revision: int | None) -> None:
    if session.json:
        session.output.record({**_row(template), "revision": revision, "toml": text})
    else:
        session.output.raw(text)


@group.command()
@click.argument("request", metavar="REQUEST.csr", type=IN_FILE)
@click.option("--template", "chosen", metavar="TEMPLATE", required=True, help="A template in force, or a TOML file.")
@click.option("--account", metavar="NAME", help="Try it as this account; by default as nobody known.")
@click.option(
    "--attribute", "attributes", multiple=True, metavar="NAME=VALUE", help="An attribute of the registration."
)
@click.option("--protocol", metavar="PROTOCOL", help="How it comes; by default the template's first protocol.")
@async_command
async def test(
    session: Session,
    engine: Engine,
    *,
    request: Path,
    chosen: str,
    account: str | None,
    attributes: tuple[str, ...],
    protocol: str | None,
) -> None:
    """Show what REQUEST.csr would be issued, and why not. Nothing is issued or kept.

    Who may have it is told, not decided: that takes the evidence that a client brings.
    """
    from pkiserver.authority.csr import decode_text, parse_request
    from pkiserver.authority.templates.trial import try_request
    from pkiserver.foundation.errors import Rejected

    template = _template(engine, chosen)
    way = protocol or next(iter(template.protocols), "cli")
    scep = way == "scep"
    # as protocols.scep reads it; which old digests the template lets in is judged with the rest
    parsed = parse_request(decode_text(read_octets(request)), old_digests=scep, latin1=scep and template.scep.latin1)
    record = await _record(engine, account, attributes)
    trial = try_request(template, parsed, record, protocol=way, authorities=engine.authorities, now=engine.clock.now())
    session.output.record(
        {
            "template": template.name,
            "issuer": template.issuer,
            "protocol": way,
            "would_be_issued": not trial.reasons,
            **trial.certificate,
            "left_out": trial.ignored,
            "lint_warnings": trial.warnings,
            "evidence": tuple(_evidence(template.evidence_for(way))),
            **({"reasons": [reason.text for reason in trial.reasons]} if session.json else {}),
        }
    )
    if trial.reasons:
        raise Rejected(trial.reasons)


def _template(engine: Engine, chosen: str) -> Template:
    path = Path(chosen)
    if path.suffix == ".toml" and path.is_file():
        from pkiserver.authority.templates.library import load_template

        return load_template(read_text(path), chosen)
    return engine.templates.get(chosen)


async def _record(engine: Engine, account: str | None, attributes: tuple[str, ...]) -> RegistrationRecord:
    from pkiserver.authority.requests import RegistrationRecord
    from pkiserver.registration.identities import record_attributes

    pairs = parse_pairs(attributes, "--attribute")
    if account is None:
        return RegistrationRecord("nobody", frozenset(), pairs)
    found = await engine.accounts.get(account)
    return RegistrationRecord(found.name, frozenset(found.groups), (*record_attributes(found), *pairs))


def _evidence(rules: Iterable[EvidenceRule]) -> Iterable[str]:
    for rule in rules:
        text = " and ".join(rule.all)
        if rule.groups:
            text += f", in group {' or '.join(rule.groups)}"
        yield text + (", with approval" if rule.approval else "")
