"""How many requests may wait for officers that show nobody: whoever reaches the server could else fill the table.

What shows somebody is not counted here: an account, a code or a device can be switched off.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from enum import StrEnum

import attrs
from sqlalchemy import Connection
from twisted.logger import Logger

from pkiserver.authority.templates.model import EvidenceKind, EvidenceRule
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.registration.guesses import site_of
from pkiserver.registration.identities import ANONYMOUS, SELF_SIGNED
from pkiserver.store.registration import requests

RETRY_AFTER = 600
"""Seconds: officers do not decide sooner."""
_TELL_EVERY = 60.0
_NAMELESS = frozenset({EvidenceKind.ANONYMOUS, EvidenceKind.SELF_SIGNED})
_log = Logger(namespace="pkiserver.requests")


class Full(StrEnum):
    """Which bound has been reached: of all addresses together, or of the client's."""

    TEMPLATE = "template"
    ADDRESS = "address"


@attrs.frozen
class WaitingBound:
    """So many requests of a template may wait that show nobody, and of one address so many of them.

    ``each`` is None for addresses behind which many are.
    """

    template: str
    total: int
    each: int | None

    @classmethod
    def of(cls, template: str, rule: EvidenceRule, *, exempt: bool) -> WaitingBound | None:
        """What a rule says; None where who meets it has shown who they are."""
        if not _NAMELESS.issuperset(rule.all):
            return None
        return cls(template, rule.waiting, None if exempt else rule.waiting_each)

    def reached(self, connection: Connection, address: str, *, now: datetime) -> Full | None:
        """The bound that keeps a further request of this address out; processes may overshoot it by one each.

        ``now``: what is past its time does not wait, whether or not that is noted already.
        """
        if requests.count_nameless(connection, self.template, now=now) >= self.total:
            return Full.TEMPLATE
        if self.each is None:
            return None
        of_address = requests.count_nameless(connection, self.template, site_of(address), now=now)
        return Full.ADDRESS if of_address >= self.each else None


def nameless_site(requester: str, address: str) -> str | None:
    """What counts as the one address of a request that shows nobody; None where it shows somebody."""
    return site_of(address) if requester == ANONYMOUS or requester.startswith(SELF_SIGNED) else None


class TurnedAway:
    """Counts requests that found no room, and tells the log of them, once a minute for each template and bound."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._told: dict[tuple[str, Full], float] = {}
        self.counts: Counter[tuple[str, Full]] = Counter()

    def note(self, template: str, full: Full, address: str) -> Unavailable:
        """What the client is told."""
        key, now = (template, full), self._clock.monotonic()
        self.counts[key] += 1
        if now - self._told.get(key, -_TELL_EVERY) >= _TELL_EVERY:
            self._told[key] = now
            text = (
                "template {template}: too many requests wait for officers ({bound}):"
                " one of {address} was turned away, the {count}. since the start"
            )
            _log.warn(text, template=template, bound=str(full), address=address, count=self.counts[key])
        whose = "this address" if full is Full.ADDRESS else "this kind"
        return Unavailable(
            f"too many requests of {whose} wait for approval: come again later", retry_after=RETRY_AFTER, public=True
        )
