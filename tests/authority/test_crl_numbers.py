"""Numbers and times of CRLs over restarts, restored databases and clocks that are set back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import select
from twisted.internet.threads import deferToThread

from pkiserver.authority.crl import Cause, CrlIssuer
from pkiserver.authority.status.points import DeltaPolicy, Partition, Point
from pkiserver.foundation.errors import Rejected, Unavailable
from pkiserver.keys.settings import ProviderSettings
from pkiserver.store import leases
from pkiserver.store.authority.crls import Crl, CrlKind
from pkiserver.store.backup import backup
from pkiserver.store.schema.audit import audit_event
from tests.authority.crl_world import MINUTE, checked, configure, number, published
from tests.authority.status_world import HOUR, StatusWorld, build
from tests.authority.world import TEMPLATE, open_world


async def issue(at: StatusWorld, crls: CrlIssuer | None = None, scope: str = "full") -> Crl:
    current = at.issuing.current
    return await (crls or at.status.crls).issue(at.issuing, current, actor="t", cause=Cause.DEMAND, scope=scope)


async def test_an_older_database_and_the_numbers_that_it_does_not_know(
    at: StatusWorld, stores: tuple[ProviderSettings, ...], tmp_path: Path
) -> None:
    """What docs/operations.md tells to do after a restore: no number that was published is used again."""
    await configure(at, points=(Point(), Point(partition=Partition.TEMPLATES)))
    await issue(at)
    copy = tmp_path / "copy.db"
    await deferToThread(backup, at.world.url, copy)
    await at.world.template(TEMPLATE.replace('"device"', '"phone"'), "phone")
    await at.certificate(template="phone")  # its list begins after the backup
    out = [await issue(at, scope=scope) for scope in ("full", "full", "templates/phone", "full")]
    world = await open_world(f"sqlite:///{copy}", stores, at.clock)
    try:
        await world.road.start()
        await world.template(TEMPLATE.replace('"device"', '"phone"'), "phone")
        restored = StatusWorld(world, build(world, at.clock, "restored"), at.clock)
        crls = restored.status.crls
        assert await crls.highest_number(restored.issuing) == 1
        assert await crls.advance(restored.issuing, 4, actor="cli:root") == 4
        assert await crls.advance(restored.issuing, 2, actor="cli:root") == 4, "never back"
        await restored.certificate(template="phone")
        again = [await issue(restored, scope=scope) for scope in ("full", "templates/phone")]
        assert min(one.number for one in again) > max(one.number for one in out)
        with pytest.raises(Rejected, match="at most"):
            await crls.advance(restored.issuing, 1 << 63, actor="cli:root")
        details = await world.database.read(
            lambda c: c.execute(select(audit_event.c.details).where(audit_event.c.actor == "cli:root")).scalars().all()
        )
        assert len(details) == 1, "what changed nothing is no event"
        assert "moved forward" in str(details[0])
    finally:
        await world.close()


async def test_an_older_database_that_lacks_a_list_whose_scope_has_low_numbers(
    at: StatusWorld, stores: tuple[ProviderSettings, ...], tmp_path: Path
) -> None:
    """Each scope counts by itself: that the highest number of all is known says nothing of the others."""
    await configure(at, points=(Point(), Point(partition=Partition.SHARDS, shards=2)), gather=timedelta(0))
    for _ in range(5):
        await issue(at)
    node = build(at.world, at.clock, "before", numbers=tmp_path / "numbers")
    await node.schedule.run_due()
    copy = tmp_path / "copy.db"
    await deferToThread(backup, at.world.url, copy)
    out = await issue(at, scope="shards/0")
    at.clock.advance(timedelta(seconds=1))
    await node.schedule.run_due()
    world = await open_world(f"sqlite:///{copy}", stores, at.clock)
    try:
        await world.road.start()
        restored = StatusWorld(world, build(world, at.clock, "restored", numbers=tmp_path / "numbers"), at.clock)
        await restored.status.schedule.run_due()
        again = await issue(restored, scope="shards/0")
        assert again.number > out.number, "no two lists of one number"
    finally:
        await world.close()


async def test_a_restart_goes_on_with_the_numbers(at: StatusWorld, stores: tuple[ProviderSettings, ...]) -> None:
    await issue(at)
    world = await open_world(at.world.url, stores, at.clock)
    await world.road.start()
    try:
        assert (await issue(at, build(world, at.clock, "restarted").crls)).number == 2
    finally:
        await world.close()


async def test_a_clock_that_is_set_back_a_little_makes_no_list_older_than_the_one_before(at: StatusWorld) -> None:
    await configure(at, delta=DeltaPolicy(interval=10 * MINUTE, validity=40 * MINUTE))
    await at.status.schedule.run_due()
    first = checked(at, await published(at, "issuing-1"))
    held = await at.certificate()
    at.clock.step(-timedelta(seconds=40))
    assert await at.status.schedule.run_due() == (), "which alone is no reason to issue"
    await at.revoke(held)
    at.clock.advance(timedelta(seconds=10))
    [delta] = await at.status.schedule.run_due()
    assert (delta.kind, delta.number, delta.this_update) == (CrlKind.DELTA, 2, first.last_update_utc)
    await issue(at)
    second = checked(at, await published(at, "issuing-1"))
    assert number(second) == 3
    assert second.last_update_utc == first.last_update_utc
    assert second.next_update_utc == first.next_update_utc


async def test_a_list_from_the_future_is_replaced_at_once_when_the_clock_is_right_again(at: StatusWorld) -> None:
    at.clock.advance(HOUR)
    await at.status.schedule.run_due()
    at.clock.step(-HOUR)
    assert {one.number for one in await at.status.schedule.run_due()} == {2}, "no turn is left in the future either"
    crl = checked(at, await published(at, "issuing-1"))
    assert isinstance(crl, x509.CertificateRevocationList)
    assert crl.last_update_utc <= at.clock.now()
    assert await at.status.schedule.run_due() == ()


async def test_a_machine_that_wakes_long_ago_replaces_no_list(at: StatusWorld) -> None:
    """Its clock has lost the time: what it would issue had ended long before anybody could read it."""
    await at.status.schedule.run_due()
    before = await published(at, "issuing-1")
    begun = at.clock.now()
    at.clock.step(datetime(1970, 1, 1, tzinfo=UTC) - begun)
    woken = at.another_process()
    assert await woken.schedule.run_due() == ()
    problems = {one.text for one in woken.schedule.problems() if one.authority == "issuing"}
    assert any(text.endswith("is this machine's clock right?") for text in problems), problems
    with pytest.raises(Unavailable, match="clock"):
        await woken.schedule.issue_now(at.issuing, at.issuing.current, actor="tester")
    assert await published(at, "issuing-1") == before
    at.clock.step(begun - at.clock.now() + HOUR)
    assert {one.number for one in await woken.schedule.run_due()} == {2}
    assert woken.schedule.problems() == ()


async def test_a_turn_whose_holder_died_before_the_clock_was_set_back(at: StatusWorld) -> None:
    await at.status.schedule.run_due()
    name = f"crl:{at.issuing.current.id}"
    for lasting, taken in ((60, 0), (3600, 1)):
        await at.world.database.write(
            lambda c, lasting=lasting: leases.acquire(  # type: ignore[misc]
                c, name, f"dead {lasting}", now=at.clock.now(), lasting=timedelta(seconds=lasting), longest=HOUR
            )
        )
        at.clock.advance(timedelta(seconds=1))
        await at.revoke(await at.certificate(f"d{lasting}"))
        at.clock.advance(timedelta(seconds=10))
        assert len(await at.status.schedule.run_due()) == taken, "only one of an hour cannot be of now"
        at.clock.advance(timedelta(seconds=120))
