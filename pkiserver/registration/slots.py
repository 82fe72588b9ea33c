"""Which device slot of a seat takes a device. Pure: slots in, a slot or a reason out."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import attrs

from pkiserver.authority.requests import Device
from pkiserver.authority.templates.model_registration import SeatRules
from pkiserver.foundation.errors import Reason, Refusal
from pkiserver.store.registration.seats import Slot, SlotMode

_SIGNATURE = re.compile(r"[\x21-\x7e]{1,128}")
MOST_DEVICE_NAME = 128


def first_slots(rules: SeatRules) -> tuple[Slot, ...]:
    """The slots of a new seat."""
    return tuple(Slot(number, SlotMode(kind.value)) for number, kind in enumerate(rules.slots, 1))


def device_reasons(device: Device) -> list[Reason]:
    """What is wrong with how a device describes itself."""
    reasons = []
    if not _SIGNATURE.fullmatch(device.signature):
        reasons.append(Reason(Refusal.MALFORMED, "a device's signature is 1 to 128 visible ASCII characters"))
    return [*reasons, *name_reasons(device.name)]


def name_reasons(name: str) -> list[Reason]:
    """What is wrong with a device's name."""
    if len(name) <= MOST_DEVICE_NAME and name.isprintable():
        return []
    text = f"a device's name has at most {MOST_DEVICE_NAME} characters, all of them printable"
    return [Reason(Refusal.MALFORMED, text)]


def choose(
    slots: tuple[Slot, ...], device: Device, *, first_success: datetime | None, window: timedelta, now: datetime
) -> Slot | Reason:
    """The slot for a device, as it is to be afterwards; or why there is none.

    A slot that knows the device comes first, whatever its mode; then an empty one that may learn once; then one that
    always learns: an empty one, else the one that was not used for longest, whose device is forgotten.

    Args:
        slots: The seat's.
        device: Who asks; its signature is compared without case.
        first_success: When the seat had its first certificate, if it had one.
        window: How long after that learn-once slots stay open by themselves.
        now: The time.
    """
    signature = device.signature.casefold()
    known = next((slot for slot in slots if slot.signature == signature), None)
    if known is not None:
        return attrs.evolve(known, last_used=now, device=device.name or known.device)
    empty = [slot for slot in slots if slot.signature is None]
    open_ones = [slot for slot in empty if _learns_once(slot, first_success, window, now)]
    always = [slot for slot in slots if slot.mode is SlotMode.LEARN_ALWAYS]
    free = open_ones or [slot for slot in always if slot.signature is None]
    chosen = free[0] if free else min(always, key=lambda slot: slot.last_used or slot.learned or now, default=None)
    if chosen is None:
        return Reason(Refusal.NOT_AUTHORISED, "this device is not known, and no slot of the seat may learn it now")
    # it stays open for as long as it was: where no certificate comes of it, the device may come again
    return attrs.evolve(chosen, signature=signature, device=device.name, learned=now, last_used=now)


def _learns_once(slot: Slot, first_success: datetime | None, window: timedelta, now: datetime) -> bool:
    if slot.mode is not SlotMode.LEARN_ONCE:
        return False
    if slot.open_until is not None:
        return now < slot.open_until
    return first_success is None or now < first_success + window
