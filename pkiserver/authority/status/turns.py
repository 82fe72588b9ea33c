"""Work that one process does for all: a lease says whose turn it is, its fencing number guards what is written."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import attrs
from sqlalchemy import Connection

from pkiserver.foundation.clock import Clock
from pkiserver.store import leases
from pkiserver.store.database import Database

Guard = Callable[[Connection], None]
"""Called in the transaction of a write; raises when the turn has passed to another process."""

TURN = timedelta(seconds=60)
"""How long a turn lasts; a process that died in it delays the others by that much."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
"""When a turn that was given back ended, so that a clock that is set back meanwhile finds it free."""


@attrs.frozen
class StatusProblem:
    """Why an authority's status services are not as they should be, for readiness."""

    authority: str
    text: str


@attrs.frozen
class Turn:
    """The right to do a piece of work. ``guard`` goes into every write that is part of it."""

    guard: Guard


class Turns:
    """Hands out turns. ``holder`` names this process."""

    def __init__(self, database: Database, clock: Clock, holder: str) -> None:
        self._database = database
        self._clock = clock
        self._holder = holder

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

        def guard(connection: Connection) -> None:
            leases.guard(connection, lease, now=self._clock.now())

        try:
            yield Turn(guard)
        finally:
            await self._database.write(lambda connection: leases.release(connection, lease, now=_LONG_AGO))
