"""Calls about seats: one identity under one template, its devices and certificates."""

from __future__ import annotations

import attrs
from sqlalchemy import Connection

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.registration.administrators import Permission
from pkiserver.store import certificates
from pkiserver.store.certificates import Certificate
from pkiserver.store.registration.seats import Seat, SeatCertificate, Slot
from protocols.management import views
from protocols.management.calls import Ask, Call, Nothing, next_before
from protocols.management.codec import text, whole


@attrs.frozen
class SeatQuery:
    """Which seats; all that is given must hold."""

    template: str | None = text(None, most=63)
    identity: str | None = text(None, most=1024)
    owner: str | None = text(None, most=256)
    before: int | None = whole(None)
    limit: int = whole(100, least=1, most=1000)


async def search(ask: Ask[SeatQuery, Nothing]) -> views.SeatList:
    """Seats, newest first; those of templates in the caller's scope."""
    query = ask.query
    page = await ask.engine.seats.search(
        template=query.template,
        identity=query.identity,
        owner=query.owner,
        before=query.before,
        limit=query.limit,
        templates=ask.templates,
    )
    return views.SeatList(tuple(map(_seat, page)), next_before([one.id for one in page], query.limit))


async def make(ask: Ask[Nothing, views.NewSeat]) -> views.SeatView:
    """A seat before its first certificate."""
    new = ask.body
    ask.require(new.template)
    return _seat(await ask.engine.seats.create(new.template, new.identity, owner=new.owner, by=ask.who.actor))


async def show(ask: Ask[Nothing, Nothing]) -> views.SeatDetailView:
    """One seat with its slots, and the newest of its certificates and events."""
    detail = await ask.engine.seats.detail(ask.number)
    _require(ask, detail.seat)

    def look(connection: Connection) -> dict[int, Certificate | None]:
        return {one.certificate_id: certificates.get(connection, one.certificate_id) for one in detail.certificates}

    known = await ask.engine.database.read(look)
    return views.SeatDetailView(
        _seat(detail.seat),
        tuple(map(_slot, detail.slots)),
        tuple(_certificate(one, known[one.certificate_id]) for one in detail.certificates),
        tuple(views.SeatEventView(one.at, one.actor, one.what) for one in detail.events),
    )


async def change(ask: Ask[Nothing, views.SeatChange]) -> views.SeatView:
    """Change a seat's owner, notes or state; what is not given stays."""
    _require(ask, await ask.engine.seats.get(ask.number))
    wanted = ask.body
    return _seat(
        await ask.engine.seats.change(
            ask.number,
            owner=wanted.owner,
            metadata=None if wanted.metadata is None else tuple(wanted.metadata.items()),
            archived=wanted.archived,
            by=ask.who.actor,
        )
    )


async def change_slot(ask: Ask[Nothing, views.SlotChange]) -> views.SlotView:
    """Set a device slot; one that is set to learn once learns for the template's window."""
    _require(ask, await ask.engine.seats.get(ask.number))
    wanted, slot = ask.body, int(ask.path["slot"])
    return _slot(
        await ask.engine.seats.set_slot(
            ask.number, slot, wanted.mode, device=wanted.device, forget=wanted.forget, by=ask.who.actor
        )
    )


def _require(ask: Ask[Nothing, object], seat: Seat) -> None:
    if not ask.covers(seat.template):
        raise Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no seat {seat.id}")


def _seat(one: Seat) -> views.SeatView:
    return views.SeatView(
        number=one.id,
        template=one.template,
        identity=one.identity,
        archived=one.archived,
        owner=one.owner,
        metadata=dict(one.metadata),
        created=one.created,
        first_success=one.first_success,
        last_success=one.last_success,
    )


def _slot(one: Slot) -> views.SlotView:
    return views.SlotView(one.number, one.mode, one.device, one.signature, one.learned, one.last_used, one.open_until)


def _certificate(one: SeatCertificate, known: Certificate | None) -> views.SeatCertificateView:
    if known is None:
        return views.SeatCertificateView(None, "", None, None, one.slot, one.at)
    fingerprint = None if known.fingerprint is None else known.fingerprint.hex()
    return views.SeatCertificateView(fingerprint, f"{known.serial:x}", known.state, known.not_after, one.slot, one.at)


P = Permission
CALLS = (
    Call("searchSeats", "GET", "/seats", P.READ_SEATS, "Search seats", search, answer=views.SeatList, query=SeatQuery),
    Call("makeSeat", "POST", "/seats", P.CHANGE_SEATS, "Make a seat", make, answer=views.SeatView, body=views.NewSeat,
         status=201),
    Call("showSeat", "GET", "/seats/{number}", P.READ_SEATS, "Show a seat", show, answer=views.SeatDetailView),
    Call("changeSeat", "PATCH", "/seats/{number}", P.CHANGE_SEATS, "Change a seat", change, answer=views.SeatView,
         body=views.SeatChange),
    Call("changeSlot", "PUT", "/seats/{number}/slots/{slot}", P.CHANGE_SEATS, "Set a device slot", change_slot,
         answer=views.SlotView, body=views.SlotChange),
)  # fmt: skip
