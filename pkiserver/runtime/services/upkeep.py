"""Following what other processes change, and throwing away what nobody needs any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from sqlalchemy import Connection

from pkiserver.authority.lifecycle.certify import Actor
from pkiserver.authority.model import Generation
from pkiserver.authority.status.turns import Turn, Turns
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.registration import operations, requestends
from pkiserver.registration.guesses import MOST_ROWS
from pkiserver.runtime.engine import Engine
from pkiserver.store import outbox
from pkiserver.store.authority.authorities import GenerationState
from pkiserver.store.outbox import Feed
from pkiserver.store.registration import codes, guesses, onetime, requests
from pkiserver.store.registration import operations as operation_rows

KEEP_SPENT_CODES = timedelta(days=90)
"""After their end; the audit log knows about them for longer."""
KEEP_ENDED = timedelta(days=400)
"""Requests and operations, with their votes, after the end of their time: clients may ask again for what was issued."""
AT_ONCE = 1000
"""Rows that one write removes or changes: all others wait until it ends."""
KEEP_ONE_TIME = timedelta(hours=2)
"""One-time passwords after their end: as long as they count for how many an account was sent."""


class ConfigurationFollower:
    """Reads keys, templates, authorities and OCSP signers again when the configuration feed has moved."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: tuple[int, int] | None = None

    async def follow(self) -> None:
        """One look at the feed's number; everything is read again only where it is another than the last time."""
        database = self._engine.database
        number = await database.read(lambda connection: outbox.current(connection, Feed.CONFIGURATION))
        seen = (database.losses, number)
        if seen == self._seen:
            return
        await self.refresh()
        if await self._engine.status.responders.run_due():  # a new key generation answers at once, not a minute later
            await self._engine.status.directory.refresh()
        self._seen = seen

    async def refresh(self) -> None:
        """Read everything again; also gives keys at fault another try, which no feed tells of."""
        await self._engine.keys.refresh()
        await self._engine.refresh()
        await self._engine.status.directory.refresh()


async def clean(engine: Engine, turns: Turns) -> None:
    """Let requests and operations expire whose time is over, and forget what ended long ago; one process for all.

    The audit log knows about all of it for as long as it is kept.

    Raises:
        Unavailable: the database is away.
    """
    now = engine.clock.now()

    steps: tuple[Callable[[Connection], int], ...] = (
        lambda c: requestends.expire(c, engine.audit, now=now, most=AT_ONCE),
        lambda c: requests.forget_ended(c, ended_before=now - KEEP_ENDED, most=AT_ONCE),
        lambda c: operation_rows.forget_ended(c, ended_before=now - KEEP_ENDED, most=AT_ONCE),
        lambda c: codes.forget_expired(c, expired_before=now - KEEP_SPENT_CODES, most=AT_ONCE),
        lambda c: onetime.forget_expired(c, expired_before=now - KEEP_ONE_TIME, most=AT_ONCE),
    )

    def at_once(connection: Connection, turn: Turn) -> None:
        turn.guard(connection)
        operations.expire(connection, engine.audit, now=now)
        guesses.forget(connection, now=now, keep=MOST_ROWS)

    def some(connection: Connection, turn: Turn, step: Callable[[Connection], int]) -> int:
        turn.guard(connection)
        return step(connection)

    async with turns.turn("upkeep") as turn:
        if turn is None:
            return
        await engine.database.write(partial(at_once, turn=turn))
        for step in steps:
            while await engine.database.write(partial(some, turn=turn, step=step)) >= AT_ONCE:
                pass


async def retire_ended(engine: Engine, turns: Turns) -> None:
    """Retire the key generations that nobody asks about any more.

    The certificate of the key itself, and with it all that it signed (a child never outlives its issuer), ended longer
    ago than the archive time.

    Raises:
        Unavailable: the database is away.
    """
    now = engine.clock.now()
    for authority in engine.authorities.list():
        archive = authority.settings.ocsp.archive
        for generation in authority.generations:
            if generation.state is not GenerationState.PREVIOUS or generation.ca is None:
                continue
            if generation.ca.not_after + archive >= now:
                continue
            async with turns.turn(f"retire:{generation.id}") as turn:
                if turn is not None:
                    await _retire(engine, generation)


async def _retire(engine: Engine, generation: Generation) -> None:
    try:
        await engine.road.succession.retire(generation.authority, generation.number, Actor("system"))
    except Rejected as error:
        if not error.has(Refusal.CONFLICT):
            raise  # else another process did it, and this one has not heard of it yet
