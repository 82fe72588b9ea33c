"""``pkiserver operation``: what nobody does alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import before_option, file_argument, limit_option, number_argument
from pkiserver.cli.selectors import read_text
from pkiserver.cli.voting import decision_options, voter, voter_options, voting

if TYPE_CHECKING:
    from pkiserver.registration.operations import Operation
    from pkiserver.runtime.engine import Engine

STATES = ("pending", "approved", "denied", "done", "failed", "expired", "any")
_SHOWN_AS = {"reason": "revocation_reason"}
"""Names of particulars that stand for something else among what every operation has."""


@click.group()
def group() -> None:
    """What nobody does alone: one asks, others approve; the last approval does it."""


def _row(one: Operation) -> dict[str, object]:
    return {
        "number": one.number,
        "kind": one.kind,
        "object": one.object,
        "state": one.row.state,
        "asked_by": one.row.requested_by,
        "reason": one.row.reason,
        "needed": one.row.needed,
        "expires": one.row.expires,
        "outcome": one.row.outcome,
    }


@group.command("list")
@click.option("--state", type=click.Choice(STATES), default="pending", show_default=True, help="Only those in it.")
@before_option
@limit_option
@async_command
async def list_(session: Session, engine: Engine, *, state: str, before: int | None, limit: int) -> None:
    """The newest first."""
    from pkiserver.store.registration.operations import OperationState

    wanted = None if state == "any" else OperationState(state)
    page = await engine.operations.list_page(state=wanted, before=before, limit=limit)
    session.output.page([_row(one) for one in page], limit=limit, onward="--before", empty="no operations")


@group.command()
@number_argument
@async_command
async def show(session: Session, engine: Engine, number: int) -> None:
    """One operation with all its particulars, what a template's change would change now, and the votes."""
    from pkiserver.foundation.errors import Rejected

    one = await engine.operations.get(number)
    try:
        difference = await engine.dual_control.difference(one)
    except Rejected as error:
        difference = f"none can be told: {error}"  # the document does not fit the configuration of today
    changes = {} if difference is None else {"difference": difference}
    votes = await engine.operations.votes_on(number)
    said = tuple(f"{vote.voter} {'approves' if vote.approved else 'refuses'} {vote.reason}".strip() for vote in votes)
    particulars = {_SHOWN_AS.get(name, name): value for name, value in one.particulars.items()}
    session.output.record({**_row(one), **particulars, **changes, "votes": said})


@group.command("change-template")
@file_argument
@click.option("--reason", required=True, help="For those who vote.")
@voter_options
@async_command
async def change_template(
    session: Session, engine: Engine, *, file: Path, reason: str, credential: Path | None, password_file: Path | None
) -> None:
    """Ask that a template become as this TOML file says."""
    from pkiserver.authority.documents import read_documents
    from pkiserver.registration.operations import OperationKind

    text = read_text(file)
    [document] = read_documents([(str(file), text)])
    by = await voter(engine, credential, password_file)
    desk = engine.dual_control
    made = await desk.ask(OperationKind.CHANGE_TEMPLATE, document.name, {"toml": text}, reason=reason, by=by)
    session.output.message(await desk.difference(made) or "")
    session.output.done(f"Operation {made.number} waits for approval", number=made.number)


@group.command("revoke-authority")
@click.argument("authority")
@click.option("--why", default="cACompromise", show_default=True, help="The reason in the CRL (RFC 5280).")
@click.option("--reason", required=True, help="For those who vote.")
@voter_options
@async_command
async def revoke_authority(
    session: Session,
    engine: Engine,
    *,
    authority: str,
    why: str,
    reason: str,
    credential: Path | None,
    password_file: Path | None,
) -> None:
    """Ask that the current certificate of an authority be revoked."""
    import hashlib

    from pkiserver.registration.operations import OperationKind

    current = engine.authorities.get(authority).current.certificate.der
    particulars = {"fingerprint": hashlib.sha256(current).hexdigest(), "reason": why}
    by = await voter(engine, credential, password_file)
    kind = OperationKind.REVOKE_AUTHORITY
    made = await engine.dual_control.ask(kind, authority, particulars, reason=reason, by=by)
    session.output.done(f"Operation {made.number} waits for approval", number=made.number)


@group.command()
@decision_options("Kept with the decision.")
@async_command
async def approve(
    session: Session, engine: Engine, *, number: int, reason: str, credential: Path | None, password_file: Path | None
) -> None:
    """Agree; the last approval that is needed carries it out."""
    by = await voter(engine, credential, password_file)
    with voting(credential, f"operation {number}"):
        one = await engine.dual_control.decide(number, approved=True, by=by, reason=reason)
    session.output.done(f"Operation {number} is {one.row.state}. {one.row.outcome}".strip(), **_row(one))


@group.command()
@decision_options("Kept with the decision.")
@async_command
async def deny(
    session: Session, engine: Engine, *, number: int, reason: str, credential: Path | None, password_file: Path | None
) -> None:
    """Refuse for good."""
    by = await voter(engine, credential, password_file)
    with voting(credential, f"operation {number}"):
        await engine.dual_control.decide(number, approved=False, by=by, reason=reason)
    session.output.done(f"Operation {number} denied", number=number)
