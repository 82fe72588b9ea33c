"""``pkiserver enroll-code``: one-time enrolment codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import before_option, limit_option, number_argument
from pkiserver.cli.voting import who

if TYPE_CHECKING:
    from pkiserver.runtime.engine import Engine


@click.group()
def group() -> None:
    """One-time enrolment codes, each for one certificate: EST's HTTP Basic password, SCEP's challengePassword."""


@group.command()
@click.argument("template")
@click.option("--subject", metavar="DN", help="RFC 4514 text; it binds the certificate's subject.")
@click.option("--name", "names", multiple=True, metavar="KIND:VALUE", help="dns:, mail:, ip:, uri:, upn:. Repeatable.")
@click.option("--lifetime", default="7d", show_default=True, help="Until when it can be used, for instance 24h.")
@async_command
async def create(
    session: Session, engine: Engine, *, template: str, subject: str | None, names: tuple[str, ...], lifetime: str
) -> None:
    """Make a code for TEMPLATE and show it, once."""
    from pkiserver.foundation.durations import parse_duration
    from pkiserver.registration.codes import parse_san, parse_subject, template_with_codes

    try:
        lasting = parse_duration(lifetime)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--lifetime") from error
    number, code = await engine.codes.create(
        template=template_with_codes(engine.templates.get(template)),
        subject=None if subject is None else parse_subject(subject),
        sans=tuple(parse_san(name) for name in names),
        lifetime=lasting,
        by=who(),
    )
    text = code.reveal_text()
    session.output.done(f"Code {number}: {text}", number=number, code=text, template=template)


@group.command("list")
@before_option
@limit_option
@async_command
async def list_(session: Session, engine: Engine, before: int | None, limit: int) -> None:
    """The newest first; the codes themselves are not kept."""
    page = await engine.codes.list_page(before=before, limit=limit)
    rows = [
        {
            "number": one.id,
            "template": one.template,
            "subject": one.subject or "",
            "names": tuple(f"{san.kind}:{san.value}" for san in one.sans),
            "expires": one.expires,
            "spent": one.spent_at,
            "created_by": one.created_by,
        }
        for one in page
    ]
    session.output.page(rows, limit=limit, onward="--before", empty="no codes")


@group.command()
@number_argument
@async_command
async def withdraw(session: Session, engine: Engine, number: int) -> None:
    """Take back a code that has not been used."""
    from pkiserver.foundation.errors import Refusal, Rejected

    if not await engine.codes.withdraw(number, by=who()):
        raise Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no unspent code {number}")
    session.output.done(f"Code {number} withdrawn", number=number)
