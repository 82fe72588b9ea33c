"""Seats: one identity under one template, with its device slots, certificates and history."""

from __future__ import annotations

import enum
import json
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, literal, select, text, update

from pkiserver.store.names import printable, subject_key
from pkiserver.store.newest import newest_of
from pkiserver.store.schema.certificates import certificate as certificate_table
from pkiserver.store.schema.certificates import certificate_intent
from pkiserver.store.schema.management import seat, seat_certificate, seat_event, seat_slot
from pkiserver.store.times import from_micros, optional_micros, optional_time, to_micros


class SlotMode(enum.StrEnum):
    """Whether a slot takes a device that it does not know: once, each time, or never."""

    LEARN_ONCE = "learn_once"
    LEARN_ALWAYS = "learn_always"
    LOCKED = "locked"


@attrs.frozen
class Slot:
    """A device slot. ``signature`` is what the device shows of itself, a hash; None while no device was learned.

    ``open_until``: up to when an operator lets a learn-once slot learn.
    """

    number: int
    mode: SlotMode
    device: str = ""
    signature: str | None = None
    learned: datetime | None = None
    last_used: datetime | None = None
    open_until: datetime | None = None


@attrs.frozen
class Seat:
    """A seat. ``metadata`` are the operators' own notes; ``first_success`` when it had its first certificate."""

    id: int
    template: str
    identity: str
    archived: bool
    owner: str | None
    metadata: tuple[tuple[str, str], ...]
    created: datetime
    first_success: datetime | None
    last_success: datetime | None


@attrs.frozen
class SeatCertificate:
    """A certificate of a seat, by its number in the store, and through which slot it came."""

    certificate_id: int
    slot: int | None
    at: datetime


@attrs.frozen
class SeatEvent:
    """Something that happened to a seat."""

    id: int
    at: datetime
    actor: str
    what: str


_ADD = text(
    "INSERT INTO seat (template, identity, archived, owner, metadata, created, place)"
    " VALUES (:template, :identity, :archived, :owner, :metadata, :created,"
    " CASE WHEN :placed THEN (SELECT COALESCE(MAX(place), 0) + 1 FROM seat WHERE template = :template) END)"
    " ON CONFLICT (template, identity) DO NOTHING"
)
_s, _l, _c, _e = seat.c, seat_slot.c, seat_certificate.c, seat_event.c


def add(
    connection: Connection, template: str, identity: str, *, owner: str | None, now: datetime, placed: bool = False
) -> tuple[Seat, bool]:
    """The seat of that template and identity, made where there is none; and whether it was made.

    ``placed``: it gets the next place under its template, by which :func:`count` need not look at it; only in a turn
    (:func:`pkiserver.store.authority.templates.take_turn`).
    """
    values = {
        "template": template,
        "identity": identity,
        "archived": False,
        "owner": owner,
        "metadata": "[]",
        "created": to_micros(now),
        "placed": placed,
    }
    made = connection.execute(_ADD, values).rowcount == 1
    found = find(connection, template, identity)
    assert found is not None
    return found, made


def find(connection: Connection, template: str, identity: str) -> Seat | None:
    """The seat of that template and identity."""
    row = connection.execute(select(seat).where(_s.template == template, _s.identity == identity)).one_or_none()
    return None if row is None else _seat(row)


def of_certificate(connection: Connection, certificate_id: int) -> Seat | None:
    """The seat that a certificate belongs to."""
    query = select(seat).join(seat_certificate, _c.seat_id == _s.id).where(_c.certificate_id == certificate_id)
    row = connection.execute(query).one_or_none()
    return None if row is None else _seat(row)


def get(connection: Connection, seat_id: int) -> Seat | None:
    """The seat of that number."""
    row = connection.execute(select(seat).where(_s.id == seat_id)).one_or_none()
    return None if row is None else _seat(row)


def lock(connection: Connection, seat_id: int) -> Seat | None:
    """The seat of that number, whose row nobody else changes until this write ends."""
    row = connection.execute(select(seat).where(_s.id == seat_id).with_for_update()).one_or_none()
    return None if row is None else _seat(row)


def change(connection: Connection, changed: Seat) -> bool:
    """Write back owner, metadata, state and times; whether the seat is there."""
    statement = (
        update(seat)
        .where(_s.id == changed.id)
        .values(
            archived=changed.archived,
            owner=changed.owner,
            metadata=json.dumps(changed.metadata, ensure_ascii=False),
            first_success=optional_micros(changed.first_success),
            last_success=optional_micros(changed.last_success),
        )
    )
    return connection.execute(statement).rowcount == 1


def retire(connection: Connection, identity: str, *, actor: str, now: datetime) -> tuple[Seat, ...]:
    """Archive the seats of an identity that is no more, and free it for another; the seats as they are then.

    No account has a colon in its name: nobody is called as such a seat is then. A seat whose certificates were issued
    to another is that of a subject which is written like the account's name, and stays.
    """
    made = certificate_table.c
    others = select(made.id).where(made.requester != identity, _c.certificate_id == made.id, _c.seat_id == _s.id)
    mine = (_s.identity == identity, ~others.exists())
    found = connection.execute(select(seat).where(*mine).with_for_update()).all()
    for row in found:
        name = f"{identity}: account deleted, seat {row.id}"
        connection.execute(update(seat).where(_s.id == row.id).values(identity=name, archived=True))
        add_event(connection, row.id, actor=actor, what=f"archived: account {identity} was deleted", now=now)
    retired = (get(connection, row.id) for row in found)
    return tuple(one for one in retired if one is not None)


def disown(connection: Connection, owner: str, *, actor: str, now: datetime) -> int:
    """Let nobody own the seats of an owner who is no more, however many; how many there were."""
    what = f"no owner: account {owner} was deleted"
    told = select(_s.id, *(literal(one) for one in (to_micros(now), printable(actor), printable(what))))
    columns = ["seat_id", "at", "actor", "what"]
    connection.execute(insert(seat_event).from_select(columns, told.where(_s.owner == owner)))
    return connection.execute(update(seat).where(_s.owner == owner).values(owner=None)).rowcount


def count(connection: Connection, template: str) -> int:
    """Seats of a template that are not archived; no seat is ever removed, so the last place tells most of them."""
    last = select(func.max(_s.place)).where(_s.template == template).scalar_subquery()
    number = select(func.count()).where(_s.template == template)
    unplaced = number.where(_s.place.is_(None)).scalar_subquery()
    archived = number.where(text("seat.archived")).scalar_subquery()
    return int(connection.execute(select(func.coalesce(last, 0) + unplaced - archived)).scalar_one())


def search(
    connection: Connection,
    *,
    template: str | None = None,
    identity: str | None = None,
    owner: str | None = None,
    before: int | None = None,
    limit: int = 100,
    templates: frozenset[str] | None = None,
) -> tuple[Seat, ...]:
    """Up to ``limit`` seats that meet what is given, newest first; those with numbers below ``before``.

    Those of ``templates`` only, where it is given.
    """
    given = [column == value for column, value in ((_s.identity, identity), (_s.owner, owner)) if value is not None]
    if before is not None:
        given.append(_s.id < before)
    names = templates
    if template is not None:
        names = frozenset({template}) if templates is None else templates & {template}
    if names is not None:
        parts = (and_(_s.template == name, *given) for name in names)
        return tuple(_seat(row) for row in newest_of(connection, _s.id, parts, limit))
    query = select(seat).where(*given).order_by(_s.id.desc()).limit(limit)
    return tuple(_seat(row) for row in connection.execute(query))


def slots(connection: Connection, seat_id: int) -> tuple[Slot, ...]:
    """A seat's slots, in order."""
    query = select(seat_slot).where(_l.seat_id == seat_id).order_by(_l.number)
    return tuple(_slot(row) for row in connection.execute(query))


def put_slot(connection: Connection, seat_id: int, changed: Slot) -> None:
    """Make a slot be so."""
    values = {
        "mode": changed.mode.value,
        "device": printable(changed.device),
        "signature": changed.signature,
        "learned": optional_micros(changed.learned),
        "last_used": optional_micros(changed.last_used),
        "open_until": optional_micros(changed.open_until),
    }
    there = update(seat_slot).where(_l.seat_id == seat_id, _l.number == changed.number).values(**values)
    if connection.execute(there).rowcount == 0:
        connection.execute(insert(seat_slot).values(seat_id=seat_id, number=changed.number, **values))


def add_certificate(connection: Connection, seat_id: int, certificate_id: int, slot: int | None, now: datetime) -> None:
    """Note that a certificate belongs to a seat."""
    values = {"seat_id": seat_id, "certificate_id": certificate_id, "slot": slot, "at": to_micros(now)}
    connection.execute(insert(seat_certificate).values(**values, ends=_end_of(certificate_id)))


def give_back(connection: Connection, certificate_id: int) -> None:
    """No certificate came of it: forget it, and the device that was learned for it and had no other since."""
    own = of_certificate(connection, certificate_id)
    found = None if own is None else lock(connection, own.id)  # as it is now: it may have been archived meanwhile
    if found is None:
        return
    this = (_c.seat_id == found.id, _c.certificate_id == certificate_id)
    noted = connection.execute(select(_c.slot, _c.at).where(*this)).one_or_none()
    if noted is None:
        return
    connection.execute(delete(seat_certificate).where(*this))
    # their ends are in an index, when they began is not
    newer = (_c.seat_id == found.id, _c.ends >= noted.at, _c.at >= noted.at)
    since = select(_c.at).where(*newer, _c.slot == noted.slot)
    learned = update(seat_slot).where(_l.seat_id == found.id, _l.number == noted.slot, _l.learned == noted.at)
    connection.execute(learned.where(~since.exists()).values(signature=None, learned=None, last_used=None))
    if not certificates(connection, found.id, limit=1):
        change(connection, attrs.evolve(found, first_success=None, last_success=None))


def certificates(
    connection: Connection, seat_id: int, *, before: int | None = None, limit: int = 100
) -> tuple[SeatCertificate, ...]:
    """Up to ``limit`` certificates of a seat, newest first; those with numbers below ``before``."""
    query = select(seat_certificate).where(_c.seat_id == seat_id).order_by(_c.certificate_id.desc()).limit(limit)
    if before is not None:
        query = query.where(_c.certificate_id < before)
    rows = connection.execute(query)
    return tuple(SeatCertificate(row.certificate_id, row.slot, from_micros(row.at)) for row in rows)


def valid_certificates(
    connection: Connection, seat_id: int, *, now: datetime, besides: int | None = None, subject: str | None = None
) -> int:
    """How many certificates of a seat, ``besides`` one, are valid, on hold, or being made.

    Those of ``subject`` (RFC 4514 text) that are made are not counted. Those that the seat had before cost nothing: see
    :func:`note_ended`.
    """
    made = certificate_table.c
    valid = select(_c.certificate_id, made.state, made.subject_key).where(
        _c.seat_id == seat_id, _c.ends > to_micros(now)
    )
    # by one statement, in which one that is being made has no state: between two it could be stored, and be in neither
    found = connection.execute(valid.outerjoin_from(seat_certificate, certificate_table, made.id == _c.certificate_id))
    apart = None if subject is None else subject_key(subject)
    return sum(
        one.state is None or (one.state in {"issued", "held"} and (apart is None or one.subject_key != apart))
        for one in found
        if one.certificate_id != besides
    )


def note_ended(connection: Connection, seat_id: int, *, now: datetime) -> None:
    """Note on those of a seat's certificates that were revoked, or never came to be, that they have ended."""
    over = select(certificate_table.c.id).where(
        certificate_table.c.id == _c.certificate_id, certificate_table.c.state.in_(("revoked", "burnt"))
    )
    ended = update(seat_certificate).where(_c.seat_id == seat_id, _c.ends > to_micros(now), over.exists())
    connection.execute(ended.values(ends=to_micros(now)))


def _end_of(certificate_id: int) -> ColumnElement[int]:
    """The end of a certificate that is being made or was."""
    ends = (
        select(table.c.not_after).where(table.c.id == certificate_id).scalar_subquery()
        for table in (certificate_intent, certificate_table)
    )
    return func.coalesce(*ends)


def add_event(connection: Connection, seat_id: int, *, actor: str, what: str, now: datetime) -> None:
    """Add to a seat's history."""
    values = {"seat_id": seat_id, "at": to_micros(now), "actor": printable(actor), "what": printable(what)}
    connection.execute(insert(seat_event).values(**values))


def events(
    connection: Connection, seat_id: int, *, before: int | None = None, limit: int = 100
) -> tuple[SeatEvent, ...]:
    """Up to ``limit`` events of a seat, newest first; those with numbers below ``before``."""
    query = select(seat_event).where(_e.seat_id == seat_id).order_by(_e.id.desc()).limit(limit)
    if before is not None:
        query = query.where(_e.id < before)
    return tuple(SeatEvent(row.id, from_micros(row.at), row.actor, row.what) for row in connection.execute(query))


def _seat(row: Row[Any]) -> Seat:
    return Seat(
        id=row.id,
        template=row.template,
        identity=row.identity,
        archived=row.archived,
        owner=row.owner,
        metadata=tuple((key, value) for key, value in json.loads(row._mapping["metadata"])),  # noqa: SLF001
        created=from_micros(row.created),
        first_success=optional_time(row.first_success),
        last_success=optional_time(row.last_success),
    )


def _slot(row: Row[Any]) -> Slot:
    return Slot(
        number=row.number,
        mode=SlotMode(row.mode),
        device=row.device,
        signature=row.signature,
        learned=optional_time(row.learned),
        last_used=optional_time(row.last_used),
        open_until=optional_time(row.open_until),
    )
