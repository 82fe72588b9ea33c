"""Tokens that are ordered by genTime over the whole site: one process at a time makes them, under a lease.

Order does not rest on clocks that agree: a holder stamps nothing at or after the end of its lease, its successor
nothing at or before that very moment, which stands in the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.store import leases
from pkiserver.store.database import Database
from pkiserver.store.leases import Lease
from pkiserver.timestamping.clockwatch import TimeNotAvailable, Trouble

LASTING = timedelta(seconds=10)
"""How long a lease holds: after a holder's death there are no ordered tokens for that long."""
RENEW = timedelta(seconds=4)
MOST_AHEAD = timedelta(milliseconds=1)
"""By how much genTime may run ahead of the clock to stay in order; beyond it there is no token."""
_MICROSECOND = timedelta(microseconds=1)


class NotOurTurn(TimeNotAvailable):
    """Another process makes the unit's tokens; ``holder`` names it when it is known."""

    def __init__(self, unit: str, holder: str | None) -> None:
        super().__init__(Trouble.OTHER_HOLDER, f"another process makes the ordered tokens of {unit}")
        self.holder = holder


@attrs.define
class _Turn:
    """This process's lease for one unit; ``floor`` is the latest moment that may be in a token already."""

    lease: Lease
    floor: datetime


class OrderTurns:
    """This process's leases on ordered units."""

    def __init__(self, database: Database, clock: Clock, holder: str) -> None:
        self._database = database
        self._clock = clock
        self._holder = holder
        self._turns: dict[str, _Turn] = {}
        self._holders: dict[str, str] = {}

    def holder(self, unit: str) -> str | None:
        """Who makes the unit's tokens, as far as is known; None when it is this process or nobody."""
        return self._holders.get(unit)

    def next(self, unit: str, moment: datetime) -> datetime:
        """A moment for the unit's next token: ``moment``, or just later than the last one.

        Raises:
            NotOurTurn: it is another process's turn, or nobody's yet.
        """
        turn = self._turns.get(unit)
        if turn is None:
            raise NotOurTurn(unit, self._holders.get(unit))
        if moment <= turn.floor:
            if turn.floor - moment > MOST_AHEAD:
                raise TimeNotAvailable(Trouble.STEPPED, "the clock is behind the last ordered token")
            moment = turn.floor + _MICROSECOND
        if moment >= turn.lease.expires:
            raise NotOurTurn(unit, None)
        turn.floor = moment
        return moment

    async def run_due(self, units: Iterable[str]) -> None:
        """Take or renew the leases of these units, let go of others; call it every second or two.

        Raises:
            Unavailable: the database is away; leases that are held still count until they end.
        """
        wanted = set(units)
        for unit in set(self._turns) - wanted:
            await self._let_go(unit)
        for unit in sorted(wanted):
            turn = self._turns.get(unit)
            if turn is None:
                await self._acquire(unit)
            elif turn.lease.expires - self._clock.now() < LASTING - RENEW:
                await self._renew(unit, turn)

    async def _acquire(self, unit: str) -> None:
        name, holder = _name(unit), self._holder

        def work(connection: Connection) -> tuple[Lease | None, Lease | None]:
            before = leases.get(connection, name)
            return before, leases.acquire(connection, name, holder, now=self._clock.now(), lasting=LASTING)

        before, lease = await self._database.write(work)
        if lease is None:
            self._holders[unit] = before.holder if before is not None else ""
            return
        self._holders.pop(unit, None)
        floor = before.expires if before is not None else self._clock.now() - _MICROSECOND
        self._turns[unit] = _Turn(lease, floor)

    async def _renew(self, unit: str, turn: _Turn) -> None:
        # The end in memory is never later than the one in the database.
        held = turn.lease
        now = self._clock.now()
        renewed = await self._database.write(
            lambda connection: leases.renew(connection, held, now=now, lasting=LASTING) if held.expires > now else None
        )
        if renewed is None:
            self._turns.pop(unit, None)
        else:
            turn.lease = renewed

    async def _let_go(self, unit: str) -> None:
        turn = self._turns.pop(unit)
        # The successor's floor is the lease's end: it must not be before our last token.
        end = max(self._clock.now(), turn.floor)
        await self._database.write(lambda connection: leases.release(connection, turn.lease, now=end))

    async def stop(self) -> None:
        """Let go of every lease, so that another process can go on at once. Tries only."""
        for unit in list(self._turns):
            try:
                await self._let_go(unit)
            except Unavailable:
                continue


def _name(unit: str) -> str:
    return f"timestamp-order:{unit}"
