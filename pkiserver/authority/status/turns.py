"""Work that one process does for all: a lease says whose turn it is, its fencing number guards what is written."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import attrs
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.store import leases
from pkiserver.store.database import Database
from pkiserver.store.leases import Lease

Guard = Callable[[Connection], None]
"""Called in the transaction of a write; raises when the turn has passed to another process."""

TURN = timedelta(seconds=60)
"""How long a turn lasts without a sign of life; a process that died in it delays the others by that much."""
_SIGN = TURN / 3
"""After how long whoever still works says so, and the turn lasts on."""
_LONGEST = timedelta(minutes=15)
"""A piece of work that takes longer hangs: its turn lasts on no more."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""When a turn that was given back ended, so that a clock that is set back meanwhile finds it free."""


@attrs.frozen
class StatusProblem:
    """Why an authority's status services are not as they should be, for readiness."""

    authority: str
    text: str


@attrs.define
class Turn:
    """The right to do a piece of work. :meth:`guard` goes into every write that is part of it."""

    lease: Lease
    _clock: Clock

    def guard(self, connection: Connection) -> None:
        """Make a transaction depend on the turn; raises :class:`Unavailable` where it has passed to another process."""
        leases.guard(connection, self.lease, now=self._clock.now())

    def take(self, connection: Connection, certificate_id: int) -> None:  # noqa: ARG002
        """As :class:`pkiserver.authority.requests.Claim`: no certificate is prepared in a turn that has passed."""
        self.guard(connection)

    def give_back(self, connection: Connection, certificate_id: int) -> None:
        """Nothing was spent."""

    @property
    def is_over(self) -> bool:
        """Whether another process may have it: this one was stopped for long. For steps where no guard can go."""
        return self._clock.now() >= self.lease.expires


class Turns:
    """Hands out turns. ``holder`` names this process."""

    def __init__(self, database: Database, clock: Clock, holder: str, reactor: IReactorTime | None = None) -> None:
        self._database = database
        self._clock = clock
        self._holder = holder
        self._reactor = reactor

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[Turn | None]:
        """The turn called ``name`` while the block runs; None when somebody has it, in this process or another.

        Raises:
            Unavailable: The database is away.
        """
        # A name of its own for each turn: a lease that is the holder's already would be given a second time.
        holder = f"{self._holder} {secrets.token_hex(4)}"
        lease = await self._database.write(
            lambda connection: leases.acquire(
                connection, name, holder, now=self._clock.now(), lasting=TURN, longest=2 * TURN
            )
        )
        if lease is None:
            yield None
            return
        turn = Turn(lease, self._clock)
        living = self._sign_of_life(turn)
        try:
            yield turn
        finally:
            if living.running:
                living.stop()
            await self._database.write(lambda connection: leases.release(connection, lease, now=_LONG_AGO))

    def _sign_of_life(self, turn: Turn) -> LoopingCall:
        """Let the turn last for as long as this process works; one that is stopped gives no sign."""
        end = self._clock.monotonic() + _LONGEST.total_seconds()

        async def sign() -> None:
            if self._clock.monotonic() >= end:
                living.stop()
                return
            held, now = turn.lease, self._clock.now()
            try:
                renewed = await self._database.write(
                    lambda connection: leases.renew(connection, held, now=now, lasting=TURN)
                )
            except Unavailable:
                return  # the next sign may come in time
            if renewed is not None:
                turn.lease = renewed
            elif living.running:  # it has passed to another process, as the guards will say
                living.stop()

        living = LoopingCall(lambda: Deferred.fromCoroutine(sign()))
        if self._reactor is not None:
            living.clock = self._reactor
        living.start(_SIGN.total_seconds(), now=False)
        return living
