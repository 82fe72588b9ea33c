"""Seats: one identity under one template. Admission within limits and by device; and their management.

Whatever the protocol, a certificate of a template with seats belongs to one. Admission is part of the transaction that
makes the certificate's intent durable, so that limits hold however many ask at once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.requests import Device
from pkiserver.authority.templates.library import TemplateLibrary
from pkiserver.authority.templates.model_registration import MOST_SLOTS, SeatRules
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.registration.slots import choose, device_reasons, first_slots, name_reasons
from pkiserver.store.authority import templates
from pkiserver.store.database import Database
from pkiserver.store.registration import accounts
from pkiserver.store.registration import seats as rows
from pkiserver.store.registration.seats import Seat, SeatCertificate, SeatEvent, Slot, SlotMode

SERVER = "system"
MOST_METADATA = 64
MOST_TEXT = 1024
MOST_OWNER = 256


@attrs.frozen
class SeatClaim:
    """A place for a certificate in a seat, taken with the certificate's intent.

    ``renewed`` is the number of the certificate that is renewed, whose seat it then is; ``superseded`` the subject
    whose certificates are revoked when this one is stored, if the template says so. ``of_account``: the identity is an
    account's name.
    """

    template: str
    rules: SeatRules
    identity: str
    device: Device | None
    renewed: int | None
    clock: Clock
    superseded: str | None = None
    of_account: bool = False

    def take(self, connection: Connection, certificate_id: int) -> None:
        """Find or make the seat, and admit; raises :class:`Rejected` with every reason."""
        now = self.clock.now()
        seat = rows.lock(connection, self._seat(connection, now).id)
        assert seat is not None
        slot, reasons = self._admission(connection, seat, now)
        if reasons:
            raise Rejected(reasons)
        if slot is not None:
            if slot.learned == now:
                self._event(connection, seat, f"slot {slot.number} learned device {slot.device or '(no name)'}", now)
            rows.put_slot(connection, seat.id, slot)
        if self.rules.certificates:
            rows.note_ended(connection, seat.id, now=now)
        rows.add_certificate(connection, seat.id, certificate_id, None if slot is None else slot.number, now)
        first = seat.first_success or now
        rows.change(connection, attrs.evolve(seat, first_success=first, last_success=now))

    def reasons_against(self, connection: Connection) -> list[Reason]:
        """Why :meth:`take` would say no as things are now; changes nothing."""
        now = self.clock.now()
        try:
            seat = self._known_seat(connection, now)
        except Rejected as error:
            return list(error.reasons)
        if seat is not None:
            return self._admission(connection, seat, now)[1]
        full = bool(self.rules.limit) and rows.count(connection, self.template) >= self.rules.limit
        return [_full(self.template, self.rules.limit)] if full else []

    def _admission(self, connection: Connection, seat: Seat, now: datetime) -> tuple[Slot | None, list[Reason]]:
        """The slot that takes the device, and what stands against a further certificate in the seat."""
        slot, reasons = self._slot(connection, seat, now)
        if seat.archived:
            reasons.append(Reason(Refusal.NOT_AUTHORISED, "the seat is archived"))
        if self.rules.certificates:
            valid = rows.valid_certificates(connection, seat.id, now=now, besides=self.renewed, subject=self.superseded)
            if valid >= self.rules.certificates:
                text = f"the seat has {valid} valid certificate(s), and the template allows {self.rules.certificates}"
                reasons.append(Reason(Refusal.LIMIT, text))
        return slot, reasons

    def give_back(self, connection: Connection, certificate_id: int) -> None:
        """No certificate came of it: forget it, and the device that was learned for it."""
        rows.give_back(connection, certificate_id)

    def _seat(self, connection: Connection, now: datetime) -> Seat:
        """The seat, made where there is none; raises :class:`Rejected` where none may be."""
        if (known := self._known_seat(connection, now)) is not None:
            return known
        # whoever deletes it waits, and archives the seat; else it would be left for whoever has the name next
        if self.of_account and not accounts.keep(connection, self.identity):
            raise Rejected.because(Refusal.NOT_AUTHORISED, f"account {self.identity} was deleted meanwhile")
        made = new_seat(connection, self.template, self.identity, self.rules, owner=None, now=now)
        self._event(connection, made, "learned", now)
        return made

    def _known_seat(self, connection: Connection, now: datetime) -> Seat | None:
        """The seat; None where one may be made; raises :class:`Rejected` where none may be."""
        if self.renewed is not None and (own := rows.of_certificate(connection, self.renewed)) is not None:
            return own
        if len(self.identity) > MOST_TEXT:  # more than an index of every database takes
            text = f"the subject has more than {MOST_TEXT} characters, too many for a seat"
            raise Rejected.because(Refusal.LIMIT, text)
        found = rows.find(connection, self.template, self.identity)
        if found is not None:
            return found
        if not self.rules.learns_at(now):
            text = f"{self.identity} has no seat under template {self.template}, and none is learned now"
            raise Rejected.because(Refusal.NOT_AUTHORISED, text)
        return None

    def _slot(self, connection: Connection, seat: Seat, now: datetime) -> tuple[Slot | None, list[Reason]]:
        slots = rows.slots(connection, seat.id)
        if self.device is None:
            text = "the template wants to know the device, and the request names none"
            missing = [Reason(Refusal.NOT_AUTHORISED, text)] if self.rules.device_required else []
            return None, missing
        if not slots:
            return None, []
        if reasons := device_reasons(self.device):
            return None, reasons
        window = self.rules.learn_once_window
        chosen = choose(slots, self.device, first_success=seat.first_success, window=window, now=now)
        return (None, [chosen]) if isinstance(chosen, Reason) else (chosen, [])

    @staticmethod
    def _event(connection: Connection, seat: Seat, what: str, now: datetime) -> None:
        rows.add_event(connection, seat.id, actor=SERVER, what=what, now=now)


def new_seat(
    connection: Connection, template: str, identity: str, rules: SeatRules, *, owner: str | None, now: datetime
) -> Seat:
    """Make a seat with its first slots, within the template's limit; the seat that is there, where there is one.

    Raises:
        Rejected: LIMIT.
    """
    if rules.limit:
        templates.take_turn(connection)
        if rows.count(connection, template) >= rules.limit:
            raise Rejected([_full(template, rules.limit)])
    seat, made = rows.add(connection, template, identity, owner=owner, now=now, placed=bool(rules.limit))
    if made:
        for slot in first_slots(rules):
            rows.put_slot(connection, seat.id, slot)
    return seat


@attrs.frozen
class SeatDetail:
    """A seat with its slots, and the newest of its certificates and events."""

    seat: Seat
    slots: tuple[Slot, ...]
    certificates: tuple[SeatCertificate, ...]
    events: tuple[SeatEvent, ...]


@attrs.frozen
class Seats:
    """Finds and changes seats; every change is audited and in the seat's history."""

    database: Database
    audit: AuditLog
    templates: TemplateLibrary
    clock: Clock

    async def search(
        self,
        *,
        template: str | None = None,
        identity: str | None = None,
        owner: str | None = None,
        before: int | None = None,
        limit: int = 100,
        templates: frozenset[str] | None = None,
    ) -> tuple[Seat, ...]:
        """Seats that meet what is given, newest first; those with numbers below ``before``, of these templates."""
        return await self.database.read(
            lambda connection: rows.search(
                connection,
                template=template,
                identity=identity,
                owner=owner,
                before=before,
                limit=limit,
                templates=templates,
            )
        )

    async def get(self, number: int) -> Seat:
        """One seat; raises :class:`Rejected` (UNKNOWN_REQUEST)."""
        found = await self.database.read(lambda connection: rows.get(connection, number))
        if found is None:
            raise _unknown(number)
        return found

    async def detail(self, number: int) -> SeatDetail:
        """One seat with everything; raises :class:`Rejected` (UNKNOWN_REQUEST)."""

        def look(connection: Connection) -> SeatDetail:
            found = rows.get(connection, number)
            if found is None:
                raise _unknown(number)
            return SeatDetail(
                found,
                rows.slots(connection, number),
                rows.certificates(connection, number),
                rows.events(connection, number),
            )

        return await self.database.read(look)

    async def create(self, template: str, identity: str, *, owner: str | None = None, by: str) -> Seat:
        """A seat before its first certificate; an empty ``owner`` is nobody.

        Raises:
            Rejected: the template has no seats or not one more, the identity will not do, or the seat is there.
        """
        rules = self.templates.get(template).seats
        if not rules.enabled:
            raise Rejected.because(Refusal.CONFIGURATION, f"template {template} has no seats")
        if not 0 < len(identity) <= MOST_TEXT or not identity.isprintable():
            raise Rejected.because(Refusal.MALFORMED, f"an identity has 1 to {MOST_TEXT} printable characters")
        if reasons := _owner_reasons(owner):
            raise Rejected(reasons)
        now = self.clock.now()

        def make(connection: Connection) -> Seat:
            if rows.find(connection, template, identity) is not None:
                raise Rejected.because(Refusal.CONFLICT, f"{identity} has a seat under template {template} already")
            made = new_seat(connection, template, identity, rules, owner=owner or None, now=now)
            self._note(connection, made, "created", by)
            return made

        return await self.database.write(make)

    async def set_archived(self, number: int, archived: bool, *, by: str) -> Seat:
        """Put a seat away, which then gets no certificates; or take it back, within the template's limit."""
        return await self.change(number, archived=archived, by=by)

    async def change(
        self,
        number: int,
        *,
        owner: str | None = None,
        metadata: tuple[tuple[str, str], ...] | None = None,
        archived: bool | None = None,
        by: str,
    ) -> Seat:
        """Change what is given, all of it or nothing; an empty ``owner`` is nobody.

        Raises:
            Rejected: there is no such seat, the notes are too many or too long, or the template has no room for it.
        """
        if reasons := [*_owner_reasons(owner), *_notes_reasons(metadata or ())]:
            raise Rejected(reasons)
        new: dict[str, Any] = {} if owner is None else {"owner": owner or None}
        new |= {} if metadata is None else {"metadata": metadata}
        new |= {} if archived is None else {"archived": archived}
        if not new:
            return await self.get(number)
        limit = (await self._rules(number)).limit

        def change(connection: Connection, seat: Seat) -> Seat:
            if seat.archived and archived is False and limit:
                templates.take_turn(connection)
                if rows.count(connection, seat.template) >= limit:
                    raise Rejected([_full(seat.template, limit)])
            return attrs.evolve(seat, **new)

        told = (
            None if owner is None else f"owner {owner}" if owner else "no owner",
            None if metadata is None else "notes",
            None if archived is None else "archived" if archived else "taken back",
        )
        return await self._write(number, ", ".join(one for one in told if one is not None), by, change)

    async def set_slot(
        self, number: int, slot: int, mode: SlotMode, *, device: str | None = None, forget: bool = False, by: str
    ) -> Slot:
        """Change a device slot.

        Args:
            number: The seat.
            slot: 1 to 10; one that the seat has not is made.
            mode: A slot that is set to learn once learns for the template's ``reopen_window``.
            device: Its name, where it is to change.
            forget: Drop the device that it knows.
            by: Who wants it.

        Raises:
            Rejected: there is no such seat or slot number.
        """
        if not 1 <= slot <= MOST_SLOTS:
            raise Rejected.because(Refusal.MALFORMED, f"slots have the numbers 1 to {MOST_SLOTS}")
        if device is not None and (reasons := name_reasons(device)):
            raise Rejected(reasons)
        rules = await self._rules(number)
        now = self.clock.now()
        opened = now + rules.reopen_window if mode is SlotMode.LEARN_ONCE else None

        def change(connection: Connection, seat: Seat) -> Seat:
            known = next((one for one in rows.slots(connection, number) if one.number == slot), Slot(slot, mode))
            changed = attrs.evolve(known, mode=mode, device=known.device if device is None else device)
            if forget:
                changed = attrs.evolve(changed, signature=None, learned=None, last_used=None)
            rows.put_slot(connection, number, attrs.evolve(changed, open_until=opened))
            return seat

        what = f"slot {slot} {mode.value}{', device forgotten' if forget else ''}"
        await self._write(number, what, by, change)
        return next(one for one in (await self.detail(number)).slots if one.number == slot)

    async def _rules(self, number: int) -> SeatRules:
        template = self.templates.find((await self.get(number)).template)
        return SeatRules() if template is None else template.seats

    async def _write(self, number: int, what: str, by: str, change: Callable[[Connection, Seat], Seat]) -> Seat:
        def work(connection: Connection) -> Seat:
            found = rows.lock(connection, number)
            if found is None:
                raise _unknown(number)
            changed = change(connection, found)
            rows.change(connection, changed)
            self._note(connection, changed, what, by)
            return changed

        return await self.database.write(work)

    def _note(self, connection: Connection, seat: Seat, what: str, by: str) -> None:
        rows.add_event(connection, seat.id, actor=by, what=what, now=self.clock.now())
        details = (("template", seat.template), ("subject", seat.identity), ("change", what))
        self.audit.append(connection, AuditEvent(AuditKind.ACCOUNT, by, f"seat {seat.id}", details=details))


def _owner_reasons(owner: str | None) -> list[Reason]:
    if owner is None or (len(owner) <= MOST_OWNER and owner.isprintable()):
        return []
    return [Reason(Refusal.MALFORMED, f"an owner is a name of at most {MOST_OWNER} printable characters")]


def _notes_reasons(notes: tuple[tuple[str, str], ...]) -> list[Reason]:
    reasons = []
    if any(len(text) > MOST_TEXT for pair in notes for text in pair) or len(notes) > MOST_METADATA:
        reasons.append(Reason(Refusal.LIMIT, f"a seat has at most {MOST_METADATA} notes of {MOST_TEXT} characters"))
    if len(dict(notes)) != len(notes):
        reasons.append(Reason(Refusal.MALFORMED, "a note's name stands twice"))
    return reasons


def _full(template: str, limit: int) -> Reason:
    return Reason(Refusal.LIMIT, f"template {template} has its {limit} seats already")


def _unknown(number: int) -> Rejected:
    return Rejected.because(Refusal.UNKNOWN_REQUEST, f"there is no seat {number}")
