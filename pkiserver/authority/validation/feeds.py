"""The periodic task that looks at feeds: any process may, one does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkiserver.authority.status.turns import Turns
from pkiserver.authority.validation.fetching import fetch_list
from pkiserver.authority.validation.importing import ISSUED, Importer
from pkiserver.authority.validation.library import ForeignAuthorities
from pkiserver.authority.validation.settings import ForeignCa
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Refusal, Rejected, Unavailable
from pkiserver.store.authority import foreign
from pkiserver.store.authority.foreign import SourceState
from pkiserver.store.database import Database

reactor: Any = _reactor
MEANWHILE = 2.0
"""Seconds after which what became due is looked at although another authority's source has not answered yet."""
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
        """Look at every source whose time has come, or comes while another is still waited for.

        What is due goes by the last ``refresh`` of the authorities.

        Returns:
            How many gave a new list.
        """
        looks: dict[str, Deferred[int]] = {}
        changed = 0
        try:
            while True:
                for ca in self._due_ones():
                    if ca.name not in looks:
                        looks[ca.name] = Deferred.fromCoroutine(self._try(ca))
                if not looks:
                    return changed
                await _ended(looks.values(), MEANWHILE)
                for name in [name for name, look in looks.items() if look.called]:
                    changed += await looks.pop(name)
                await self._authorities.refresh()
                if not looks:
                    return changed
        finally:
            for look in looks.values():
                look.addErrback(_given_up)
                look.cancel()

    def _due_ones(self) -> list[ForeignCa]:
        return [
            ca
            for ca in self._authorities.list()
            if any(self._due(ca, self._authorities.state(ca.name, url)) for url in ca.feeds)
        ]

    async def _try(self, ca: ForeignCa) -> int:
        try:
            return await self._look(ca)
        except PkiError as error:
            self._log.warn("foreign CA {name}: {why}", name=ca.name, why=str(error))
            return 0

    async def look_now(self, ca: ForeignCa) -> int:
        """Look at all sources of one authority, whatever the time; how many gave a new list.

        Raises:
            Unavailable: another process is looking at them, or the database is away.
        """
        changed = await self._look(ca, everything=True)
        await self._authorities.refresh()
        return changed

    async def reset(self, ca: ForeignCa, urls: Sequence[str], *, actor: str) -> int:
        """Fetch from these sources and let what they give count, whatever they gave before; how many gave another list.

        For an authority whose numbers began anew, or whose list became one of another kind or scope. All or none; what
        was there goes on counting until then.

        Raises:
            Rejected: one of them is no source of this authority, or gives what would be refused from a new source too.
            Unavailable: one cannot be had, another process is looking at them, or the database is away.
        """
        if strange := [url for url in urls if url not in ca.feeds]:
            text = f"{strange[0]} is no feed of {ca.name} (allowed: {', '.join(ca.feeds)})"
            raise Rejected.because(Refusal.CONFIGURATION, text)
        async with self._turns.turn(_turn_of(ca)) as turn:
            if turn is None:
                raise _busy(ca)
            fetched = [(url, await fetch_list(url, "")) for url in urls]
            given = [(url, one.data) for url, one in fetched if one.data is not None]
            changed = await self._importer.take_anew(ca, given, actor=actor)
            for url, one in fetched:
                await self._note(ca, url, "", one.etag)
        await self._authorities.refresh()
        return changed

    def _due(self, ca: ForeignCa, state: SourceState | None) -> bool:
        if state is None:
            return True
        now = self._clock.now()
        pause = min(RETRY, ca.interval) if state.problem or _is_over(state, now) else ca.interval
        return not state.checked <= now < state.checked + pause

    async def _look(self, ca: ForeignCa, *, everything: bool = False) -> int:
        if everything:
            async with self._turns.turn(_turn_of(ca)) as turn:
                if turn is None:
                    raise _busy(ca)
                states = await self._states(ca)
                return sum([await self._fetch(ca, url, states.get(url)) for url in ca.feeds])
        changed = 0
        for url in ca.feeds:
            if self._due(ca, self._authorities.state(ca.name, url)):
                # A turn each: many that never answer take longer together than any turn lasts.
                async with self._turns.turn(_turn_of(ca)) as turn:
                    if turn is None:
                        break
                    state = (await self._states(ca)).get(url)
                    if self._due(ca, state):
                        changed += await self._fetch(ca, url, state)
        return changed

    async def _states(self, ca: ForeignCa) -> dict[str, SourceState]:
        """What its sources gave, as the database has it; those that it has no more are forgotten."""
        states = {one.source: one for one in await self._database.read(foreign.states) if one.authority == ca.name}
        for gone in set(states) - {*ca.feeds, ISSUED}:
            await self._database.write(partial(foreign.remove, authority=ca.name, source=gone))
        return states

    async def _fetch(self, ca: ForeignCa, url: str, state: SourceState | None) -> bool:
        etag = "" if state is None or state.head is None else state.etag
        changed, problem = False, ""
        try:
            fetched = await fetch_list(url, etag)
            if fetched.data is not None:
                changed = (await self._importer.take(ca, url, fetched.data, actor=_ACTOR)).changed
            etag = fetched.etag
        except CancelledError:
            raise  # this process ends
        except Exception as error:  # noqa: BLE001 -- whatever one source does to us, the others are looked at
            if not isinstance(error, PkiError):
                self._log.failure("foreign CA {name}: {url}", name=ca.name, url=url)
                error = Unavailable(f"{url}: unexpected: {type(error).__name__}: {error}")
            problem, etag = str(error)[:1000], ""
            if state is None or state.problem != problem:
                self._log.warn("foreign CA {name}: {why}", name=ca.name, why=problem)
        await self._note(ca, url, problem, etag)
        return changed

    async def _note(self, ca: ForeignCa, url: str, problem: str, etag: str) -> None:
        now = self._clock.now()
        await self._database.write(
            lambda connection: foreign.note(connection, ca.name, url, checked=now, problem=problem, etag=etag)
        )


def _given_up(failure: Failure) -> int:
    failure.trap(CancelledError)  # type: ignore[no-untyped-call]
    return 0


async def _ended(looks: Iterable[Deferred[int]], seconds: float) -> None:
    """Until all have ended, or so many seconds have passed; then they go on."""
    waiting: Deferred[None] = Deferred()

    def end(_: object = None) -> None:
        if not waiting.called:
            waiting.callback(None)

    timer = reactor.callLater(seconds, end)
    DeferredList(list(looks)).addCallback(end)
    try:
        await waiting
    finally:
        if timer.active():
            timer.cancel()


def _turn_of(ca: ForeignCa) -> str:
    return f"foreign:{ca.name}"


def _busy(ca: ForeignCa) -> Unavailable:
    return Unavailable(f"another process is looking at the feeds of {ca.name} this moment", retry_after=5)


def _is_over(state: SourceState, now: datetime) -> bool:
    return state.head is None or state.head.next_update is None or state.head.next_update <= now
