"""The status cache: fast while the feed is fresh, silent when it is not, and never an old status."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from pkiserver.authority.revocation import ByCertificate
from pkiserver.authority.status import cache as cache_room
from pkiserver.authority.status.cache import StatusCache
from pkiserver.foundation.errors import Unavailable
from pkiserver.store.certificates import CertificateState
from tests.authority.status_world import ORDER, StatusWorld


async def state(cache: StatusCache, at: StatusWorld, serial: int) -> CertificateState | None:
    [found] = await cache.statuses(at.issuing.issuer_id, [serial])
    return None if found is None else found.state


async def test_a_change_elsewhere_is_seen_after_the_next_look_at_the_feed(at: StatusWorld) -> None:
    issued = await at.certificate()
    cache = StatusCache(at.world.database, at.clock)
    await cache.poll()
    assert [await state(cache, at, issued.serial) for _ in range(3)] == [CertificateState.ISSUED] * 3
    assert (cache.counts.hits, cache.counts.misses) == (2, 1)
    for change, expected in (
        (at.status.revocations.hold(ByCertificate(issued.der), ORDER), CertificateState.HELD),
        (at.status.revocations.release(ByCertificate(issued.der), ORDER), CertificateState.ISSUED),
        (at.revoke(issued), CertificateState.REVOKED),
    ):
        await change
        await cache.poll()
        assert await state(cache, at, issued.serial) is expected
    assert (cache.counts.changed, cache.counts.misses) == (3, 1), "what changed was read with the feed"


async def test_a_record_is_told_by_the_same_object_until_it_changes(at: StatusWorld) -> None:
    """Answers are kept by it: what changed and is as before again is another one."""
    issued = await at.certificate()
    cache = StatusCache(at.world.database, at.clock)

    async def told() -> object:
        [found] = await cache.statuses(at.issuing.issuer_id, [issued.serial])
        return found

    async def change() -> None:
        await at.status.revocations.hold(ByCertificate(issued.der), ORDER)
        await at.status.revocations.release(ByCertificate(issued.der), ORDER)

    await cache.poll()
    first = await told()
    assert await told() is first
    cache._looked = float("-inf")
    cache._catch_up = at.status.directory.cache.poll  # type: ignore[method-assign]
    assert await told() is first
    assert cache.counts.bypassed == 1
    await change()
    second = await told()
    assert second == first
    assert second is not first
    await cache.poll()
    third = await told()
    await change()
    await cache.poll()
    assert await told() is not third


async def test_a_look_that_a_later_one_overtakes_brings_nothing_old_back(at: StatusWorld, monkeypatch: Any) -> None:
    issued = await at.certificate()
    cache = StatusCache(at.world.database, at.clock)
    await cache.poll()
    assert await state(cache, at, issued.serial) is CertificateState.ISSUED
    await at.status.revocations.hold(ByCertificate(issued.der), ORDER)
    real = at.world.database.read_ahead

    async def overtaken(work: Any) -> Any:
        found = await real(work)
        monkeypatch.setattr(at.world.database, "read_ahead", real)
        await at.revoke(issued)
        await cache.poll()
        return found

    monkeypatch.setattr(at.world.database, "read_ahead", overtaken)
    await cache.poll()
    assert await state(cache, at, issued.serial) is CertificateState.REVOKED


async def test_without_a_fresh_look_nothing_is_believed(at: StatusWorld) -> None:
    issued, other = await at.certificate(), await at.certificate("other")
    cache = StatusCache(at.world.database, at.clock)
    for one in (issued, other):
        assert await state(cache, at, one.serial) is CertificateState.ISSUED
        assert cache.statuses_now(at.issuing.issuer_id, [one.serial]) is not None
        await at.revoke(one)
        at.clock.advance(timedelta(milliseconds=100))  # within which every process is to tell of it
        assert cache.statuses_now(at.issuing.issuer_id, [one.serial]) is None
        assert await state(cache, at, one.serial) is CertificateState.REVOKED


async def test_all_who_ask_while_nothing_is_believed_share_one_look(at: StatusWorld, monkeypatch: Any) -> None:
    issued = await at.certificate()
    cache = StatusCache(at.world.database, at.clock)
    await state(cache, at, issued.serial)
    at.clock.advance(timedelta(seconds=cache_room.TRUSTED_SECONDS))
    looks, real = [], cache.poll

    async def counted() -> None:
        looks.append(None)
        await real()

    monkeypatch.setattr(cache, "poll", counted)
    asked = [Deferred.fromCoroutine(state(cache, at, issued.serial)) for _ in range(20)]
    asked[3].cancel()
    asked[3].addErrback(lambda _failure: CertificateState.ISSUED)
    assert set(await gatherResults(asked)) == {CertificateState.ISSUED}
    assert (len(looks), cache.counts.misses, cache.counts.bypassed) == (1, 1, 0)


async def test_where_looks_come_too_late_the_database_answers(at: StatusWorld, monkeypatch: Any) -> None:
    issued = await at.certificate()
    cache = StatusCache(at.world.database, at.clock)
    real = at.world.database.read_ahead

    async def late(work: Any) -> Any:
        found = await real(work)
        at.clock.advance(timedelta(seconds=2 * cache_room.TRUSTED_SECONDS))
        return found

    monkeypatch.setattr(at.world.database, "read_ahead", late)
    assert await state(cache, at, issued.serial) is CertificateState.ISSUED
    await at.revoke(issued)
    assert await state(cache, at, issued.serial) is CertificateState.REVOKED
    assert cache.counts.bypassed == 2


async def test_what_was_not_there_is_asked_again(at: StatusWorld) -> None:
    cache = StatusCache(at.world.database, at.clock)
    await cache.poll()
    prepared = await at.world.road.prepare(_request())
    assert await state(cache, at, prepared.serial) is None
    await at.world.road.issue(prepared)
    assert await state(cache, at, prepared.serial) is CertificateState.ISSUED


def _request() -> Any:
    from tests.authority.world import authorised

    return authorised(common_name="late")


async def test_a_read_that_a_revocation_overtakes_is_not_kept(at: StatusWorld, monkeypatch: Any) -> None:
    issued = await at.certificate()
    cache = StatusCache(at.world.database, at.clock)
    await cache.poll()
    real = at.world.database.read

    async def overtaken(work: Any) -> Any:
        found = await real(work)
        await at.revoke(issued)
        monkeypatch.setattr(at.world.database, "read", real)
        await cache.poll()
        return found

    monkeypatch.setattr(at.world.database, "read", overtaken)
    assert await state(cache, at, issued.serial) is CertificateState.ISSUED, "true when it was read"
    assert await state(cache, at, issued.serial) is CertificateState.REVOKED


async def test_many_changes_at_once_and_many_records_stay_bounded(at: StatusWorld, monkeypatch: Any) -> None:
    monkeypatch.setattr(cache_room, "ENTRIES", 3)
    monkeypatch.setattr(cache_room, "_STEP", 2)
    cache = StatusCache(at.world.database, at.clock)
    await cache.poll()
    some = [await at.certificate(f"device {n}") for n in range(5)]
    for one in some:
        assert await state(cache, at, one.serial) is CertificateState.ISSUED
    assert len(cache._known) == 3
    await gatherResults([Deferred.fromCoroutine(at.revoke(one)) for one in some])
    await cache.poll()
    for one in some:
        assert await state(cache, at, one.serial) is CertificateState.REVOKED


async def test_with_the_database_gone_nothing_old_is_told(at: StatusWorld) -> None:
    issued = await at.certificate()
    cache = StatusCache(at.world.database, at.clock)
    await cache.poll()
    await state(cache, at, issued.serial)
    await at.world.database.close()
    assert await state(cache, at, issued.serial) is CertificateState.ISSUED, "within the limit"
    with pytest.raises(Unavailable):
        await cache.poll()
    at.clock.advance(timedelta(seconds=cache_room.TRUSTED_SECONDS))
    with pytest.raises(Unavailable):
        await state(cache, at, issued.serial)


async def test_the_look_at_the_feed_waits_behind_no_other_reads(at: StatusWorld) -> None:
    """Else a cache that is not believed for a moment, and sends all questions to the database, would stay so."""
    cache = StatusCache(at.world.database, at.clock)
    hold = threading.Event()
    asked = [Deferred.fromCoroutine(at.world.database.read(lambda _: hold.wait(60))) for _ in range(20)]
    try:
        await cache.poll()
        assert not any(one.called for one in asked)
        assert cache.is_trusted
    finally:
        hold.set()
    await gatherResults(asked)
