"""``pkiserver request``: enrolment requests that wait for a decision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import before_option, limit_option, number_argument
from pkiserver.cli.voting import decision_options, voter, voting

if TYPE_CHECKING:
    from pkiserver.runtime.engine import Engine
    from pkiserver.store.registration.requests import PendingRequest

STATES = ("pending", "approved", "denied", "issued", "expired", "any")


@click.group()
def group() -> None:
    """Enrolment requests that wait for a decision."""


def _row(one: PendingRequest) -> dict[str, object]:
    payload = json.loads(one.payload)
    return {
        "number": one.id,
        "state": one.state.value,
        "template": one.template,
        "subject": payload["subject"],
        "requester": payload["requester"],
        "by": payload["protocol"],
        "from": payload["source"],
        "needed": one.needed,
        "created": one.created,
        "expires": one.expires,
    }


@group.command("list")
@click.option("--state", type=click.Choice(STATES), default="pending", show_default=True, help="Only those in it.")
@before_option
@limit_option
@async_command
async def list_(session: Session, engine: Engine, *, state: str, before: int | None, limit: int) -> None:
    """The newest first."""
    from pkiserver.store.registration.requests import RequestState

    wanted = None if state == "any" else RequestState(state)
    page = await engine.approvals.list_page(state=wanted, before=before, limit=limit)
    session.output.page([_row(one) for one in page], limit=limit, onward="--before", empty="no requests")


@group.command()
@number_argument
@async_command
async def show(session: Session, engine: Engine, number: int) -> None:
    """One request, with its CSR, the checks' results, the votes so far and what was decided."""
    from pkiserver.cli.selectors import pem

    one = await engine.approvals.get(number)
    votes = await engine.approvals.votes_on(number)
    session.output.record(
        {
            **_row(one),
            "reasons": one.reasons,
            "checks": one.checks,
            "approvers": one.approvers or ("anybody who may decide",),
            "votes": tuple(
                f"{vote.voter} {'approves' if vote.approved else 'denies'} {vote.reason}".strip() for vote in votes
            ),
            "decided_by": one.decided_by,
            "decided_at": one.decided_at,
            "csr": None if one.csr is None else pem(one.csr, "CERTIFICATE REQUEST"),
        }
    )


@group.command()
@decision_options("Kept with the decision.")
@async_command
async def approve(
    session: Session, engine: Engine, *, number: int, reason: str, credential: Path | None, password_file: Path | None
) -> None:
    """Approve; the last approval that is needed lets the certificate be issued when the client asks again."""
    by = await voter(engine, credential, password_file)
    with voting(credential, f"request {number}"):
        one = await engine.approvals.decide(number, approved=True, by=by, reason=reason)
    missing = "" if one.state.value != "pending" else f"; {one.needed} approvals are needed"
    session.output.done(f"Request {number} is {one.state.value}{missing}", number=number, state=one.state)


@group.command()
@decision_options("Told to the client.")
@async_command
async def deny(
    session: Session, engine: Engine, *, number: int, reason: str, credential: Path | None, password_file: Path | None
) -> None:
    """Refuse for good."""
    by = await voter(engine, credential, password_file)
    with voting(credential, f"request {number}"):
        await engine.approvals.decide(number, approved=False, by=by, reason=reason)
    session.output.done(f"Request {number} denied", number=number)
