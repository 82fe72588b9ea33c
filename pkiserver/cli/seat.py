"""``pkiserver seat``: one identity under one template, its devices and certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pkiserver.cli.context import Session, async_command
from pkiserver.cli.options import before_option, limit_option, number_argument
from pkiserver.cli.selectors import parse_pairs
from pkiserver.cli.voting import who

if TYPE_CHECKING:
    from pkiserver.runtime.engine import Engine
    from pkiserver.store.registration.seats import Seat, Slot


@click.group()
def group() -> None:
    """Seats: one identity under one template, its devices and certificates."""


def _row(one: Seat) -> dict[str, object]:
    return {
        "number": one.id,
        "template": one.template,
        "identity": one.identity,
        "owner": one.owner,
        "archived": one.archived,
        "last_success": one.last_success,
    }


def _slot(one: Slot) -> dict[str, object]:
    return {
        "slot": one.number,
        "mode": one.mode,
        "device": one.device,
        "known": one.signature is not None,
        "learned": one.learned,
        "last_used": one.last_used,
        "open_until": one.open_until,
    }


@group.command("list")
@click.option("--template", metavar="NAME", help="Only those for this template.")
@click.option("--identity", metavar="NAME", help="Only those of this identity.")
@click.option("--owner", metavar="NAME", help="Only those of this owner.")
@before_option
@limit_option
@async_command
async def list_(
    session: Session,
    engine: Engine,
    *,
    template: str | None,
    identity: str | None,
    owner: str | None,
    before: int | None,
    limit: int,
) -> None:
    """The newest first."""
    page = await engine.seats.search(template=template, identity=identity, owner=owner, before=before, limit=limit)
    session.output.page([_row(one) for one in page], limit=limit, onward="--before", empty="no seats")


@group.command()
@number_argument
@async_command
async def show(session: Session, engine: Engine, number: int) -> None:
    """One seat with its slots, and the newest of its certificates and events."""
    from pkiserver.store import certificates

    found = await engine.seats.detail(number)
    known = await engine.database.read(
        lambda connection: [certificates.get(connection, one.certificate_id) for one in found.certificates]
    )
    session.output.record(
        {
            **_row(found.seat),
            "created": found.seat.created,
            "notes": tuple(f"{key}={value}" for key, value in found.seat.metadata),
            "slots": tuple(
                f"{one.number} {one.mode}{f' {one.device}' if one.device else ''}{' (known)' if one.signature else ''}"
                for one in found.slots
            ),
            "certificates": tuple(f"{one.serial:x} {one.state}" for one in known if one is not None),
            "history": tuple(f"{one.at:%Y-%m-%d %H:%M:%SZ} {one.actor}: {one.what}" for one in found.events),
        }
    )


@group.command()
@click.argument("template")
@click.argument("identity")
@click.option("--owner", metavar="NAME", help="Who is answerable for it.")
@async_command
async def create(session: Session, engine: Engine, *, template: str, identity: str, owner: str | None) -> None:
    """Make a seat before its first certificate."""
    made = await engine.seats.create(template, identity, owner=owner, by=who())
    session.output.done(f"Seat {made.id} made", **_row(made))


@group.command("set")
@number_argument
@click.option("--owner", metavar="NAME", help="Empty: nobody.")
@click.option("--note", "notes", multiple=True, metavar="NAME=VALUE", help="Replaces all notes; repeatable; '': none.")
@async_command
async def set_(session: Session, engine: Engine, *, number: int, owner: str | None, notes: tuple[str, ...]) -> None:
    """Change the owner or the notes; what is not given stays."""
    pairs = () if notes == ("",) else parse_pairs(notes, "--note")
    changed = await engine.seats.change(number, owner=owner, metadata=pairs if notes else None, by=who())
    session.output.done(f"Seat {number} changed", **_row(changed))


@group.command()
@number_argument
@click.argument("position", type=click.IntRange(1, 10), metavar="SLOT")
@click.argument("mode", type=click.Choice(("learn_once", "learn_always", "locked")))
@click.option("--device", metavar="NAME", help="Its name, for people.")
@click.option("--forget", is_flag=True, help="Drop the device that it knows.")
@async_command
async def slot(
    session: Session, engine: Engine, *, number: int, position: int, mode: str, device: str | None, forget: bool
) -> None:
    """Set a device slot. One that is set to learn once learns for the template's reopen_window."""
    from pkiserver.store.registration.seats import SlotMode

    changed = await engine.seats.set_slot(number, position, SlotMode(mode), device=device, forget=forget, by=who())
    session.output.done(f"Slot {position} of seat {number} is {mode}", **_slot(changed))


@group.command()
@number_argument
@async_command
async def archive(session: Session, engine: Engine, number: int) -> None:
    """Put a seat away: it gets no more certificates; those that it has stay what they are."""
    await engine.seats.set_archived(number, True, by=who())
    session.output.done(f"Seat {number} archived", number=number)


@group.command()
@number_argument
@async_command
async def restore(session: Session, engine: Engine, number: int) -> None:
    """Take an archived seat back."""
    await engine.seats.set_archived(number, False, by=who())
    session.output.done(f"Seat {number} taken back", number=number)
