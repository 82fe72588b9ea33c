"""The status cache: fast while the feed is fresh, silent when it is not, and never an old status."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from pkiserver.authority.revocation import ByCertificate
from pkiserver.authority.status import cache as cache_room
from pkiserver.authority.status.cache import StatusCache
from pkiserver.foundation.errors import Unavailable
from pkiserver.keys.settings import ProviderSettings
from pkiserver.store.certificates import CertificateState
from tests.authority.status_world import ORDER, StatusWorld, status_world


@pytest.fixture
def at(tmp_path: Path, stores: tuple[ProviderSettings, ...], on_reactor: Callable[[Any], Any]) -> Iterator[StatusWorld]:
    with status_world(tmp_path, stores, on_reactor) as opened:
        yield opened


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
    assert cache.counts.dropped == 3


async def test_without_a_fresh_look_the_database_answers(at: StatusWorld) -> None:
    issued = await at.certificate()
    cache = StatusCache(at.world.database, at.clock)
    assert await state(cache, at, issued.serial) is CertificateState.ISSUED
    await at.revoke(issued)
    assert await state(cache, at, issued.serial) is CertificateState.REVOKED, "never polled: nothing is believed"
    other = await at.certificate("other")
    await cache.poll()
    await state(cache, at, other.serial)
    await at.revoke(other)
    at.clock.advance(timedelta(seconds=cache_room.TRUSTED_SECONDS))
    assert await state(cache, at, other.serial) is CertificateState.REVOKED


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
