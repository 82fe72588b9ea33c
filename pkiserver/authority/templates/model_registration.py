"""What a template says about seats: one identity under one template, its certificates and its devices."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

import attrs

from pkiserver.foundation.tomlfile import Invalid

MOST_APPROVALS = 10
"""Officers that a rule can want to agree."""
MOST_WAITING = 100_000
"""Requests that a rule can let wait."""
MOST_SLOTS = 10
"""Device slots of one seat."""


class SlotKind(StrEnum):
    """How a slot of a new seat begins: it takes one device for good, the latest device each time, or none."""

    LEARN_ONCE = "learn_once"
    LEARN_ALWAYS = "learn_always"
    LOCKED = "locked"


@attrs.frozen
class SeatRules:
    """Seats of a template. Without ``enabled`` nothing is kept and nothing limited.

    Attributes:
        enabled: Every certificate belongs to a seat.
        learn: Somebody who is entitled but unknown gets a seat; else only those who have one are served.
        learn_from: When learning begins; it needs ``learn``.
        learn_until: When it ends.
        limit: Seats that are not archived; 0: any number.
        certificates: Certificates of one seat that are valid at the same time; 0: any number.
        slots: The device slots of a new seat, up to ten.
        device_required: A request must say from which device it comes.
        learn_once_window: After a seat's first certificate, how long its other learn-once slots stay open.
        reopen_window: For how long a slot learns that an operator set to learn once.
    """

    enabled: bool = False
    learn: bool = True
    learn_from: datetime | None = None
    learn_until: datetime | None = None
    limit: int = 0
    certificates: int = 0
    slots: tuple[SlotKind, ...] = ()
    device_required: bool = False
    learn_once_window: timedelta = timedelta(hours=24)
    reopen_window: timedelta = timedelta(minutes=15)

    def __attrs_post_init__(self) -> None:
        problems = []
        if len(self.slots) > MOST_SLOTS:
            problems.append(Invalid("are too many", key="slots", allowed=f"up to {MOST_SLOTS}"))
        if self.device_required and not self.slots:
            problems.append(Invalid("needs slots", key="device_required"))
        if (self.learn_from or self.learn_until) and not self.learn:
            problems.append(Invalid("goes with learn = true", key="learn_from" if self.learn_from else "learn_until"))
        if self.learn_from and self.learn_until and self.learn_until <= self.learn_from:
            problems.append(Invalid("is not after learn_from", key="learn_until"))
        problems += [
            Invalid("is negative", key=key, allowed="0 (no limit) and more")
            for key in ("limit", "certificates")
            if getattr(self, key) < 0
        ]
        problems += [
            Invalid("is out of range", key=key, allowed="0s to 366d")
            for key in ("learn_once_window", "reopen_window")
            if not timedelta() <= getattr(self, key) <= timedelta(days=366)
        ]
        if problems:
            raise ExceptionGroup("seats", problems)

    def learns_at(self, moment: datetime) -> bool:
        """Whether somebody unknown may get a seat at that time."""
        return (
            self.learn
            and (self.learn_from is None or moment >= self.learn_from)
            and (self.learn_until is None or moment < self.learn_until)
        )
