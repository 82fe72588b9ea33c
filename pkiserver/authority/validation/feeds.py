"""The periodic task that looks at feeds: any process may, one does."""

from __future__ import annotations

from datetime import datetime, timedelta

from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from pkiserver.authority.status.turns import Turns
from pkiserver.authority.validation.fetching import fetch_list
from pkiserver.authority.validation.importing import ISSUED, Importer
from pkiserver.authority.validation.library import ForeignAuthorities
from pkiserver.authority.validation.settings import ForeignCa
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError
from pkiserver.store import foreign
from pkiserver.store.database import Database
from pkiserver.store.foreign import SourceState

RETRY = timedelta(seconds=30)
"""From a look that failed to the next; never longer than the set interval."""
_ACTOR = "system"


class FeedKeeper:
    """Fetches the lists that are due; a source that fails delays no other authority's."""

    _log = Logger()

    def __init__(
        self, database: Database, authorities: ForeignAuthorities, importer: Importer, turns: Turns, clock: Clock
    ) -> None:
        self._database = database
        self._authorities = authorities
        self._importer = importer
        self._turns = turns
        self._clock = clock

    async def run_due(self) -> int:
        """Look at every source whose time has come; how many gave a new list.

        What is due goes by the last ``refresh`` of the authorities.
        """
        due = [
            ca
            for ca in self._authorities.list()
            if any(self._due(ca, self._authorities.state(ca.name, url)) for url in ca.feeds)
        ]
        counts: list[int] = await gatherResults([Deferred.fromCoroutine(self._try(ca)) for ca in due])
        changed = sum(counts)
        if due:
            await self._authorities.refresh()
        return changed

    async def _try(self, ca: ForeignCa) -> int:
        try:
            return await self._look(ca)
        except PkiError as error:
            self._log.warn("foreign CA {name}: {why}", name=ca.name, why=str(error))
            return 0

    async def look_now(self, ca: ForeignCa) -> int:
        """Look at all sources of one authority, whatever the time; how many gave a new list."""
        changed = await self._look(ca, everything=True)
        await self._authorities.refresh()
        return changed

    def _due(self, ca: ForeignCa, state: SourceState | None) -> bool:
        if state is None:
            return True
        now = self._clock.now()
        pause = min(RETRY, ca.interval) if state.problem or _is_over(state, now) else ca.interval
        return not state.checked <= now < state.checked + pause

    async def _look(self, ca: ForeignCa, *, everything: bool = False) -> int:
        changed = 0
        async with self._turns.turn(f"foreign:{ca.name}") as turn:
            if turn is None:
                return 0
            states = {one.source: one for one in await self._database.read(foreign.states) if one.authority == ca.name}
            for gone in set(states) - {*ca.feeds, ISSUED}:
                await self._database.write(lambda connection, gone=gone: foreign.remove(connection, ca.name, gone))  # type: ignore[misc]
            for url in ca.feeds:
                state = states.get(url)
                if everything or self._due(ca, state):
                    changed += await self._fetch(ca, url, state)
        return changed

    async def _fetch(self, ca: ForeignCa, url: str, state: SourceState | None) -> bool:
        etag = "" if state is None or state.head is None else state.etag
        changed, problem = False, ""
        try:
            fetched = await fetch_list(url, etag)
            if fetched.data is not None:
                changed = (await self._importer.take(ca, url, fetched.data, actor=_ACTOR)).changed
            etag = fetched.etag
        except PkiError as error:
            problem, etag = f"{url}: {error}"[:1000], ""
            if state is None or state.problem != problem:
                self._log.warn("foreign CA {name}: {why}", name=ca.name, why=problem)
        now = self._clock.now()
        await self._database.write(
            lambda connection: foreign.note(connection, ca.name, url, checked=now, problem=problem, etag=etag)
        )
        return changed


def _is_over(state: SourceState, now: datetime) -> bool:
    return state.head is None or state.head.next_update is None or state.head.next_update <= now
