"""A process is stopped in the middle of what one does for all, and wakes when another has done it: no harm comes of it.

Time that the clock is moved by inside a step is the time for which the process that does the step was stopped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from pkiserver.authority.delivery.carriers import DirectoryCarrier
from pkiserver.authority.delivery.queue import Bring, QueueRunner
from pkiserver.authority.delivery.service import TargetDeliveries
from pkiserver.authority.delivery.settings import DirectoryTarget
from pkiserver.authority.delivery.values import Carrier, Parcel
from pkiserver.authority.status.directory import RESPONDER_TEMPLATE
from pkiserver.authority.status.turns import TURN, Turns
from pkiserver.foundation.errors import Unavailable
from pkiserver.store import certificates
from pkiserver.store.authority import crls, keys
from pkiserver.store.certificates import CertificateState
from pkiserver.store.publication import outward
from pkiserver.store.publication.outward import Task
from tests.authority.crl_world import published
from tests.authority.status_world import StatusWorld

STOPPED = 2 * TURN


def turns(at: StatusWorld, holder: str) -> Turns:
    return Turns(at.world.database, at.clock, holder)


@attrs.define
class StoppedAt:
    """A carrier whose process is stopped before it writes its first list; what happens meanwhile is up to the test."""

    carrier: Carrier
    meanwhile: Callable[[], Awaitable[None]] | None
    brought: int = 0

    async def deliver(self, parcel: Parcel) -> None:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        self.brought += 1
        await self.carrier.deliver(parcel)


def to(at: StatusWorld, target: DirectoryTarget, holder: str, through: Carrier | None = None) -> TargetDeliveries:
    return TargetDeliveries(
        target,
        node="ca1",
        database=at.world.database,
        authorities=at.world.road.authorities,
        turns=turns(at, holder),
        clock=at.clock,
        through=through,
    )


async def test_an_old_list_does_not_stay_over_a_newer_one(at: StatusWorld, tmp_path: Path) -> None:
    await at.status.schedule.run_due()
    target = DirectoryTarget(name="www", directory=tmp_path, authorities=("issuing",))
    other = to(at, target, "other")
    place = tmp_path / "issuing-1.crl"

    async def meanwhile() -> None:
        at.clock.advance(STOPPED)
        await at.revoke(await at.certificate())
        at.clock.advance(timedelta(minutes=1))
        await at.status.schedule.run_due()
        assert await other.run_due() == 1
        assert place.read_bytes() == await published(at, "issuing-1")

    stopped = to(at, target, "stopped", StoppedAt(DirectoryCarrier(target), meanwhile))
    with pytest.raises(Unavailable):
        await stopped.run_due()
    assert place.read_bytes() != await published(at, "issuing-1"), "the old list came over the new one"
    assert await other.run_due() == 0, "who cannot know of it"
    assert await stopped.run_due() == 1
    assert place.read_bytes() == await published(at, "issuing-1")
    assert await stopped.run_due() == 0


async def test_whoever_was_stopped_after_reading_a_list_does_not_bring_it(
    at: StatusWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await at.status.schedule.run_due()
    target = DirectoryTarget(name="www", directory=tmp_path)
    read = crls.get

    def stopped(*arguments: Any) -> Any:
        found = read(*arguments)
        at.clock.advance(STOPPED)
        return found

    monkeypatch.setattr(crls, "get", stopped)
    carrier = StoppedAt(DirectoryCarrier(target), None)
    assert await to(at, target, "stopped", carrier).run_due() == carrier.brought == 0
    monkeypatch.undo()
    assert await to(at, target, "other").run_due() == 2


@attrs.define
class Elsewhere:
    """A directory elsewhere: each subject is brought as it is when it is looked at."""

    now: dict[str, str]
    there: dict[str, str]
    meanwhile: Callable[[], Awaitable[None]] | None = None
    key: str = "directory/x"

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Bring]:
        async def bring(task: Task) -> None:
            found = self.now[task.subject]
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                await meanwhile()
            self.there[task.subject] = found

        yield bring


async def test_an_entry_elsewhere_does_not_stay_as_it_was_before(at: StatusWorld) -> None:
    now, there = {"ann@example.com": "old"}, dict[str, str]()
    database = at.world.database

    async def change(value: str) -> None:
        now["ann@example.com"] = value
        await database.write(lambda c: outward.enqueue(c, ["directory/x"], ["ann@example.com"]))

    other = QueueRunner(Elsewhere(now, there), database, turns(at, "other"), at.clock)

    async def meanwhile() -> None:
        at.clock.advance(STOPPED)
        await change("new")
        assert await other.run_due() == 1
        assert there["ann@example.com"] == "new"

    await change("old")
    stopped = QueueRunner(Elsewhere(now, there, meanwhile), database, turns(at, "stopped"), at.clock)
    with pytest.raises(Unavailable):
        await stopped.run_due()
    assert there["ann@example.com"] == "old"
    assert await stopped.run_due() == 1
    assert there["ann@example.com"] == "new"
    assert await stopped.run_due() == await other.run_due() == 0


async def test_no_second_responder_is_certified(at: StatusWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other = at.status.responders, at.another_process().responders
    generate = type(at.world.keys).generate
    stops = iter([True])

    async def stopped(ring: Any, *arguments: Any, **more: Any) -> Any:
        made = await generate(ring, *arguments, **more)
        if next(stops, False):
            at.clock.advance(STOPPED)
            assert len(await other.run_due()) == 2
        return made

    monkeypatch.setattr(type(at.world.keys), "generate", stopped)
    await first.run_due()
    issued = await at.world.database.read(
        lambda c: [
            one
            for row in keys.list_all(c)
            for one in certificates.valid_by_key(c, row.spki_sha256, now=at.clock.now(), template=RESPONDER_TEMPLATE)
            if one.state is CertificateState.ISSUED
        ]
    )
    assert len({one.generation_id for one in issued}) == len(issued) == 2


async def test_a_turn_lasts_for_as_long_as_its_holder_works(at: StatusWorld) -> None:
    """A list of millions, or a slow token, takes longer than a turn; it must be issued nevertheless."""
    reactor = Clock()
    working = Turns(at.world.database, at.clock, "working", reactor)

    async def pass_time(seconds: int) -> None:
        at.clock.advance(timedelta(seconds=seconds))
        reactor.advance(seconds)
        await deferToThread(lambda: None)
        await at.world.database.write(lambda _c: None)  # behind the sign of life

    async with working.turn("crl:1") as turn:
        assert turn is not None
        for _ in range(15):
            await pass_time(20)
            async with turns(at, "other").turn("crl:1") as another:
                assert another is None
            await at.world.database.write(turn.guard)
        for _ in range(50):  # who works for so long hangs
            await pass_time(20)
        async with turns(at, "other").turn("crl:1") as another:
            assert another is not None
        with pytest.raises(Unavailable):
            await at.world.database.write(turn.guard)
    assert reactor.getDelayedCalls() == []
