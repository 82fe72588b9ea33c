"""Delta CRLs: with their base they say what the complete list of the same number says; openssl uses them."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from pkiserver.authority.crl import Parts
from pkiserver.authority.lifecycle.ceremonies import KeyChoice
from pkiserver.authority.requests import IssuedCertificate
from pkiserver.authority.revocation import ByCertificate
from pkiserver.authority.status.points import DeltaPolicy, Partition, Point
from pkiserver.foundation.errors import Rejected
from pkiserver.keys.algorithms import KeyType
from pkiserver.store.authority.crls import CrlKind
from pkiserver.store.certificates import RevocationReason
from tests.authority.crl_world import (
    MINUTE,
    base_number,
    checked,
    combine,
    configure,
    entries,
    number,
    path_of,
    point_urls,
    published,
    reason_of,
    serials,
    value,
)
from tests.authority.status_world import HOUR, ORDER, StatusWorld, openssl_crl_check
from tests.authority.world import ACTOR

DELTA = DeltaPolicy(interval=10 * MINUTE, validity=40 * MINUTE)


async def lists(at: StatusWorld, path: str = "issuing-1") -> tuple[x509.CertificateRevocationList, ...]:
    """The newest complete list and delta of a path."""
    complete = checked(at, await published(at, path))
    return complete, checked(at, await published(at, path, CrlKind.DELTA))


async def at_once(at: StatusWorld) -> str:
    at.clock.advance(timedelta(seconds=10))
    await at.status.schedule.run_due()
    return f"{at.clock.now().timestamp() + 2:.0f}"


async def test_openssl_sees_a_revocation_by_a_delta(at: StatusWorld, tmp_path: Path) -> None:
    await configure(at, delta=DELTA)
    bad, good = await at.certificate("bad"), await at.certificate("good")
    await at.status.schedule.run_due()
    await at.revoke(bad, RevocationReason.KEY_COMPROMISE)
    now = await at_once(at)
    complete, delta = await lists(at)
    assert (number(complete), number(delta), base_number(delta)) == (1, 2, 1)
    assert (serials(complete), serials(delta)) == (set(), {bad.serial})
    files = [await published(at, "root-1"), await published(at, "issuing-1")]
    with_delta = [*files, await published(at, "issuing-1", CrlKind.DELTA)]
    options = ("-use_deltas", "-attime", now)
    for above in (bad, good):
        assert openssl_crl_check(tmp_path, above.der, above.chain, files, "-attime", now).endswith(": OK")
    assert "certificate revoked" in openssl_crl_check(tmp_path, bad.der, bad.chain, with_delta, *options)
    assert openssl_crl_check(tmp_path, good.der, good.chain, with_delta, *options).endswith(": OK")


async def test_a_released_certificate_is_removed_by_the_delta(at: StatusWorld, tmp_path: Path) -> None:
    await configure(at, delta=DELTA)
    held = await at.certificate("held")
    await at.status.revocations.hold(ByCertificate(held.der), ORDER)
    await at.status.schedule.run_due()
    await at.status.revocations.release(ByCertificate(held.der), ORDER)
    now = await at_once(at)
    complete, delta = await lists(at)
    assert serials(complete) == {held.serial}
    [entry] = delta
    assert reason_of(entry) == "removeFromCRL"
    assert combine(complete, delta) == {}
    files = [await published(at, "root-1"), await published(at, "issuing-1")]
    files.append(await published(at, "issuing-1", CrlKind.DELTA))
    assert openssl_crl_check(tmp_path, held.der, held.chain, files, "-use_deltas", "-attime", now).endswith(": OK")


async def test_freshest_crl_is_in_certificates_and_complete_lists_only(at: StatusWorld) -> None:
    await configure(at, delta=DELTA, points=(Point(partition=Partition.SHARDS, shards=2),))
    issued = await at.certificate()
    await at.status.schedule.run_due()
    [url] = point_urls(issued.der)
    [delta_url] = point_urls(issued.der, x509.FreshestCRL)
    assert delta_url == url.removesuffix(".crl") + "/delta.crl"
    complete, delta = await lists(at, path_of(url))
    [point] = value(complete, x509.FreshestCRL)
    assert [name.value for name in point.full_name] == [delta_url]
    assert value(delta, x509.FreshestCRL) is None
    idp = x509.IssuingDistributionPoint
    assert value(delta, idp).public_bytes() == value(complete, idp).public_bytes()


async def test_lists_issued_together_have_one_number_and_one_time(at: StatusWorld) -> None:
    await configure(at, delta=DELTA)
    await at.status.schedule.run_due()
    at.clock.advance(HOUR)
    await at.revoke(await at.certificate())
    await at.status.schedule.run_due()
    complete, delta = await lists(at)
    assert number(complete) == number(delta) == 2
    assert complete.last_update_utc == delta.last_update_utc
    before = checked(at, await published(at, "issuing-1", number=1))
    assert combine(before, delta) == entries(complete)
    at.clock.advance(10 * MINUTE)
    await at.status.schedule.run_due()
    later = checked(at, await published(at, "issuing-1", CrlKind.DELTA))
    assert (number(later), base_number(later)) == (3, 1)
    kept = checked(at, await published(at, "issuing-1", CrlKind.DELTA, number=2))
    assert kept.last_update_utc == complete.last_update_utc


@pytest.mark.parametrize("seed", [7, 8, 9])
async def test_a_delta_always_adds_up_to_the_complete_list(at: StatusWorld, seed: int) -> None:
    """Whatever happens between, any list in force and the newest delta make what a complete list would say."""
    await configure(at, delta=DELTA, interval=HOUR, validity=4 * HOUR)
    rng = random.Random(seed)
    issued = [await at.certificate(f"device {n}") for n in range(8)]
    for step in range(24):
        await change(at, rng.choice(issued), rng)
        if step == 16:  # some of them expire on the way
            end = x509.load_der_x509_certificate(issued[0].der).not_valid_after_utc
            at.clock.advance(end - at.clock.now() - 2 * HOUR)
        at.clock.advance(rng.choice([10, 30, 70]) * MINUTE)
        await at.status.schedule.run_due()
        if step % 4 == 3:
            await at.status.schedule.issue_now(at.issuing, at.issuing.current, actor="tester")
            complete, delta = await lists(at)
            assert number(complete) == number(delta)
            records = await at.status.crls.history(at.issuing.current, limit=50)
            in_force = [one for one in records if one.next_update > at.clock.now() and one.number < number(delta)]
            assert all(base_number(delta) <= one.number for one in in_force)
            for one in in_force:
                base = checked(at, await published(at, "issuing-1", number=one.number))
                assert combine(base, delta) == entries(complete)


async def change(at: StatusWorld, issued: IssuedCertificate, rng: random.Random) -> None:
    """Some change of status, if it is allowed now."""
    revocations, selector = at.status.revocations, ByCertificate(issued.der)
    try:
        match rng.randrange(5):
            case 0 | 1:
                await revocations.hold(selector, ORDER)
            case 2:
                await revocations.release(selector, ORDER)
            case 3:
                await revocations.revoke(selector, RevocationReason.UNSPECIFIED, ORDER)
            case _:
                await revocations.revoke(selector, RevocationReason.KEY_COMPROMISE, ORDER)
    except Rejected:
        return


async def test_a_hold_that_came_and_went_between_two_lists_is_removed(at: StatusWorld) -> None:
    await configure(at, delta=DELTA)
    held = await at.certificate("held")
    await at.status.schedule.run_due()
    await at.status.revocations.hold(ByCertificate(held.der), ORDER)
    await at_once(at)
    assert serials((await lists(at))[1]) == {held.serial}
    await at.status.revocations.release(ByCertificate(held.der), ORDER)
    await at_once(at)
    complete, delta = await lists(at)
    assert [reason_of(one) for one in delta] == ["removeFromCRL"]
    assert number(complete) == 1


async def test_deltas_of_two_keys_never_meet(at: StatusWorld) -> None:
    await configure(at, delta=DELTA)
    old = await at.certificate("old")
    key = KeyChoice(key_type=KeyType.parse("ec-p256"), store="softhsm")
    await at.world.road.succession.rekey("issuing", key, ACTOR)
    new = await at.certificate("new")
    await at.status.schedule.run_due()
    for one in (old, new):
        await at.revoke(one)
    await at_once(at)
    deltas = [
        checked(at, await published(at, f"issuing-{n}", CrlKind.DELTA), generation)
        for n, generation in ((1, 0), (2, 1))
    ]
    assert [serials(one) for one in deltas] == [{old.serial, new.serial}, {new.serial}]
    points = [value(one, x509.IssuingDistributionPoint) for one in deltas]
    assert points[0] is None
    assert points[1] is not None, "so that no complete list of one key can be combined with a delta of the other"


async def test_a_change_of_scope_begins_a_new_base(at: StatusWorld) -> None:
    await configure(at, delta=DELTA, points=(Point(partition=Partition.SHARDS, shards=1),))
    await at.status.schedule.run_due()
    await configure(
        at, delta=DELTA, points=(Point(partition=Partition.SHARDS, shards=1),), base_url="http://new.example"
    )
    await at.status.schedule.issue_now(
        at.issuing, at.issuing.current, actor="tester", scope="shards/0", parts=Parts.DELTA
    )
    complete, delta = await lists(at, "issuing-1/shards/0")
    assert base_number(delta) == number(complete) == 2
    idp = x509.IssuingDistributionPoint
    assert value(delta, idp) == value(complete, idp)


async def test_expired_certificates_stay_where_that_is_wanted(at: StatusWorld) -> None:
    await configure(at, keep_expired=True)
    issued = await at.certificate()
    await at.revoke(issued)
    await at.status.schedule.run_due()
    at.clock.advance(timedelta(days=400))
    for _ in range(3):
        at.clock.advance(2 * HOUR)
        await at.status.schedule.run_due()
    crl = checked(at, await published(at, "issuing-1"))
    assert serials(crl) == {issued.serial}
    assert any(one.oid.dotted_string == "2.5.29.60" for one in crl.extensions)
