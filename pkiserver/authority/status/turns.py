"""Work that one process does for all: a lease says whose turn it is, its fencing number guards what is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import attrs
from sqlalchemy import Connection

from pkiserver.foundation.clock import Clock
from pkiserver.store import leases
from pkiserver.store.database import Database

Guard = Callable[[Connection], None]
"""Called in the transaction of a write; raises when the turn has passed to another process."""

TURN = timedelta(seconds=60)
"""How long a turn lasts; a process that died in it delays the others by that much."""


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
        self._taken: set[str] = set()

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[Turn | None]:
        """The turn called ``name`` while the block runs; None when another process or task has it.

        Raises:
            Unavailable: The database is away.
        """
        if name in self._taken:  # the lease itself lets its holder in again, as after a release that failed
            yield None
            return
        self._taken.add(name)
        try:
            async with self._leased(name) as turn:
                yield turn
        finally:
            self._taken.discard(name)

    @asynccontextmanager
    async def _leased(self, name: str) -> AsyncIterator[Turn | None]:
        holder = self._holder
        lease = await self._database.write(
            lambda connection: leases.acquire(connection, name, holder, now=self._clock.now(), lasting=TURN)
        )
        if lease is None:
            yield None
            return

        def guard(connection: Connection) -> None:
            leases.guard(connection, lease, now=self._clock.now())

        try:
            yield Turn(guard)
        finally:
            await self._database.write(lambda connection: leases.release(connection, lease, now=self._clock.now()))
