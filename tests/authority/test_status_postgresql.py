"""One walk through certificate status on PostgreSQL, with three processes' worth of connections."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from twisted.internet.defer import Deferred, gatherResults

from pkiserver.authority.crl import Cause
from pkiserver.authority.lifecycle.ceremonies import KeyChoice
from pkiserver.authority.revocation import ByCertificate
from pkiserver.authority.status.points import DeltaPolicy, Partition, Point
from pkiserver.authority.status.services import StatusServices
from pkiserver.foundation.errors import Rejected
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.settings import ProviderSettings
from pkiserver.store.authority.crls import CrlKind
from pkiserver.store.certificates import CertificateState, RevocationReason
from tests.authority.crl_world import MINUTE, base_number, checked, combine, configure, entries, number, published
from tests.authority.status_world import ORDER, StatusWorld, build, lint_crl
from tests.authority.world import ACTOR, World, open_world

pytestmark = pytest.mark.postgresql


@pytest.fixture
def status_url(postgres_url: str) -> str:
    return postgres_url


async def others(
    at: StatusWorld, stores: tuple[ProviderSettings, ...], count: int
) -> list[tuple[World, StatusServices]]:
    """Worlds with connections of their own, as other processes have."""
    opened = []
    for which in range(count):
        world = await open_world(at.world.url, stores, at.clock)
        await world.road.start()
        opened.append((world, build(world, at.clock, f"process {which}")))
    return opened


async def test_three_processes_share_one_truth(at: StatusWorld, stores: tuple[ProviderSettings, ...]) -> None:
    two = await others(at, stores, 2)
    every = [at.status, *(status for _, status in two)]
    made: list[tuple[str, ...]] = await gatherResults(
        [Deferred.fromCoroutine(one.responders.run_due()) for one in every]
    )
    assert sum(len(one) for one in made) == 2
    lists: list[tuple[Any, ...]] = await gatherResults(
        [Deferred.fromCoroutine(one.schedule.run_due()) for one in every]
    )
    assert sum(len(one) for one in lists) == 2

    issued = await at.certificate()
    caches = [one.directory.cache for one in every]
    for cache in caches:
        await cache.poll()
        [found] = await cache.statuses(at.issuing.issuer_id, [issued.serial])
        assert found is not None
        assert found.state is CertificateState.ISSUED
    outcomes = await gatherResults([Deferred.fromCoroutine(_revoke(one, issued.der)) for one in every])
    assert sorted(outcomes) == [False, False, True]  # type: ignore[type-var]
    for cache in caches:
        await cache.poll()
        [found] = await cache.statuses(at.issuing.issuer_id, [issued.serial])
        assert found is not None
        assert found.state is CertificateState.REVOKED

    at.clock.advance(timedelta(seconds=10))
    lists = await gatherResults([Deferred.fromCoroutine(one.schedule.run_due()) for one in every])
    [gathered] = [one for some in lists for one in some]
    assert gathered.number == 2
    assert lint_crl(gathered.der) == []
    for one in every:
        served = await one.publications.crl(at.issuing.current.crl_path)
        assert served is not None
        assert served.number == 2
    for world, _ in two:
        await world.close()


async def _revoke(status: StatusServices, certificate: bytes) -> bool:
    try:
        await status.revocations.revoke(ByCertificate(certificate), RevocationReason.SUPERSEDED, ORDER)
    except Rejected:
        return False
    return True


async def test_numbers_of_two_keys_never_meet(at: StatusWorld) -> None:
    key = KeyChoice(key_type=KeyType.parse("ec-p256"), store="softhsm")
    await at.world.road.succession.rekey("issuing", key, ACTOR)
    jobs = [
        Deferred.fromCoroutine(at.status.crls.issue(at.issuing, one, actor="tester", cause=Cause.DEMAND))
        for one in at.issuing.generations
        for _ in range(2)
    ]
    outcomes = await gatherResults([job.addErrback(lambda _: None) for job in jobs])  # type: ignore[arg-type]
    numbers = [one.number for one in outcomes if one is not None]  # type: ignore[attr-defined]
    assert len(numbers) >= 2
    assert len(set(numbers)) == len(numbers)
    assert isinstance(await at.crl(), x509.CertificateRevocationList)


async def test_shards_and_deltas_from_three_processes(at: StatusWorld, stores: tuple[ProviderSettings, ...]) -> None:
    """Whoever issues: one number is one list, and a delta and its base say what the complete list says."""
    shards = Point(partition=Partition.SHARDS, shards=2)
    await configure(at, points=(shards, Point(announced=False)), delta=DeltaPolicy(10 * MINUTE, 40 * MINUTE))
    two = await others(at, stores, 2)
    every = [at.status, *(status for _, status in two)]
    issued = [await at.certificate(f"device {n}") for n in range(6)]
    for step, one in enumerate(issued):
        await at.revoke(one)
        if step == 3:
            await at.status.revocations.hold(ByCertificate(issued[5].der), ORDER)
        if step == 4:
            await at.status.revocations.release(ByCertificate(issued[5].der), ORDER)
        at.clock.advance(11 * MINUTE)
        await gatherResults([Deferred.fromCoroutine(status.schedule.run_due()) for status in every])
    await at.status.schedule.issue_now(at.issuing, at.issuing.current, actor="tester")
    complete = checked(at, await published(at, "issuing-1"))
    delta = checked(at, await published(at, "issuing-1", CrlKind.DELTA))
    assert set(entries(complete)) == {one.serial for one in issued}
    assert number(complete) == number(delta) > base_number(delta)
    base = checked(at, await published(at, "issuing-1", number=base_number(delta)))
    assert combine(base, delta) == entries(complete)
    in_shards: set[int] = set()
    for shard in range(2):
        path = f"issuing-1/shards/{shard}"
        complete = checked(at, await published(at, path))
        delta = checked(at, await published(at, path, CrlKind.DELTA))
        found = combine(complete, delta) if number(delta) > number(complete) else entries(complete)
        assert in_shards.isdisjoint(found)
        in_shards |= set(found)
    assert in_shards == {one.serial for one in issued}
    for world, _ in two:
        await world.close()
