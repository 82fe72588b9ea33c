"""Shards, templates, users, authorities and deltas at once, over rekeying, renewal, holds, expiry and other URLs.

The judges are openssl, pkilint, and the records themselves.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509

from pkiserver.authority.crl import Parts
from pkiserver.authority.distribution import scope_path
from pkiserver.authority.requests import IssuedCertificate
from pkiserver.authority.revocation import ByCertificate
from pkiserver.authority.status.points import DeltaPolicy, Partition, Point
from pkiserver.foundation.errors import Rejected
from pkiserver.store import certificates
from pkiserver.store.authority.crls import Covers, CrlKind
from pkiserver.store.certificates import RevocationReason
from tests.authority.crl_world import (
    MINUTE,
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
from tests.authority.world import ACTOR, TEMPLATE, new_key

DELTA = DeltaPolicy(interval=10 * MINUTE, validity=40 * MINUTE)
EVERYTHING = (
    Point(partition=Partition.SHARDS, shards=2),
    Point(partition=Partition.TEMPLATES),
    Point(covers=Covers.USERS),
    Point(covers=Covers.AUTHORITIES),
    Point(announced=False),
)
IDP = x509.IssuingDistributionPoint


@attrs.frozen
class Lists:
    """What is served at one path. ``earlier`` are the complete lists in force that a client may hold."""

    path: str
    complete: x509.CertificateRevocationList
    delta: x509.CertificateRevocationList
    earlier: tuple[x509.CertificateRevocationList, ...]
    files: tuple[bytes, bytes]


async def every_list(at: StatusWorld) -> AsyncIterator[Lists]:
    """All lists of the issuing authority, of each of its keys."""
    for index, generation in enumerate(at.issuing.generations):
        for scope in await at.status.crls.scopes(generation):
            path = scope_path(generation.crl_path, scope.scope)
            files = (await published(at, path), await published(at, path, CrlKind.DELTA))
            complete, delta = (checked(at, one, index) for one in files)
            records = await at.status.crls.history(generation, limit=50, scope=scope.scope)
            earlier = [
                checked(at, await published(at, path, number=one.number), index)
                for one in records
                if one.next_update > at.clock.now() and scope.since < one.number <= number(delta)
            ]
            yield Lists(path, complete, delta, tuple(earlier), files)


async def everything_issued(at: StatusWorld, parts: Parts = Parts.COMPLETE) -> dict[str, Lists]:
    """Issue every list on demand; what is served then, by path, with what must always hold looked at."""
    for generation in at.issuing.generations:
        for scope in await at.status.crls.scopes(generation):
            await at.status.schedule.issue_now(at.issuing, generation, actor="t", scope=scope.scope, parts=parts)
    found = {one.path: one async for one in every_list(at)}
    for one in found.values():
        assert value(one.delta, x509.FreshestCRL) is None
        [point] = value(one.complete, x509.FreshestCRL)
        assert next(name.value for name in point.full_name).endswith(f"/{one.path}/delta.crl")
        whole = [extension.value for extension in one.complete.extensions if extension.oid == IDP.oid]
        assert whole == [extension.value for extension in one.delta.extensions if extension.oid == IDP.oid]
        if parts is Parts.COMPLETE:
            assert (number(one.complete), one.complete.last_update_utc) == (
                number(one.delta),
                one.delta.last_update_utc,
            )
            assert one.earlier
            for base in one.earlier:
                assert combine(base, one.delta) == entries(one.complete), one.path
    return found


async def rekeyed(at: StatusWorld) -> None:
    await at.world.road.succession.rekey("issuing", new_key(), ACTOR)


def openssl(at: StatusWorld, folder: Path, one: IssuedCertificate, lists: list[bytes]) -> str:
    options = ("-extended_crl", "-use_deltas", "-attime", f"{at.clock.now().timestamp() + 1:.0f}")
    return openssl_crl_check(folder, one.der, one.chain, lists, *options)


async def everything_configured(at: StatusWorld, **more: Any) -> None:
    for name in ("root", "issuing"):
        await configure(at, name, delta=DELTA, points=EVERYTHING, interval=HOUR, validity=4 * HOUR, **more)


async def test_every_change_of_status_in_every_list(at: StatusWorld, tmp_path: Path) -> None:
    await everything_configured(at)
    await rekeyed(at)  # the issuing certificate names the lists of authorities from here on
    names = ("released", "between", "revoked", "late", "bare", "dated", "good")
    by_name = {name: await at.certificate(name) for name in names}
    for one in by_name.values():
        paths = [path_of(url) for url in point_urls(one.der)]
        assert [path.rstrip("01") for path in paths] == [
            "issuing-2/shards/", "issuing-2/templates/device", "issuing-2/users",
        ]  # fmt: skip
    which = {name: ByCertificate(one.der) for name, one in by_name.items()}
    change = at.status.revocations
    await at.status.schedule.run_due()
    await change.hold(which["late"], ORDER)
    await everything_issued(at)
    at.clock.advance(MINUTE)
    for name in ("released", "revoked", "between"):
        await change.hold(which[name], ORDER)
        if name == "between":
            await change.release(which[name], ORDER)
    held_at = at.clock.now()
    await everything_issued(at, Parts.DELTA)
    at.clock.advance(MINUTE)
    await change.release(which["released"], ORDER)
    await change.revoke(which["revoked"], RevocationReason.KEY_COMPROMISE, ORDER)
    await change.revoke(which["bare"], RevocationReason.UNSPECIFIED, ORDER)
    compromised = held_at - timedelta(seconds=30)
    await change.revoke(which["dated"], RevocationReason.SUPERSEDED, ORDER, invalidity_date=compromised)
    before_new_base = await everything_issued(at, Parts.DELTA)
    at.clock.advance(MINUTE)
    await everything_issued(at)
    await change.release(which["late"], ORDER)
    at.clock.advance(MINUTE)
    found = await everything_issued(at, Parts.DELTA)

    expected = {"revoked": "keyCompromise", "bare": "unspecified", "dated": "superseded"}
    by_serial = {one.serial: name for name, one in by_name.items()}
    root = [await published(at, path) for path in ("root-1", "root-1/authorities", "root-1/users")]
    for one in by_name.values():
        mine = [found[path_of(url)] for url in point_urls(one.der)]
        for lists in (*mine, found["issuing-2"]):
            said = {by_serial[serial]: entry for serial, entry in combine(lists.earlier[-1], lists.delta).items()}
            name = by_serial[one.serial]
            assert (said[name][0] if name in said else None) == expected.get(name), lists.path
        verdict = openssl(at, tmp_path, one, [*root, *(file for lists in mine for file in lists.files)])
        assert verdict.endswith(": OK") is (by_serial[one.serial] not in expected), verdict
    everything = found["issuing-2"]
    removed = {by_serial[one.serial_number] for one in everything.delta if reason_of(one) == "removeFromCRL"}
    assert removed == {"released", "between", "late"}, "the base has 'late'; deltas since have had the others"
    dated = {by_serial[one.serial_number]: one for one in everything.delta}
    assert dated["revoked"].revocation_date_utc == held_at, "since when it is not to be relied upon"
    assert list(dated["bare"].extensions) == []
    moment = dated["dated"].extensions.get_extension_for_class(x509.InvalidityDate).value
    assert moment.invalidity_date_utc == compromised
    assert "late" in {by_serial[serial] for serial in serials(before_new_base["issuing-2"].complete)}


async def test_expiry_during_a_hold(at: StatusWorld) -> None:
    """On one scheduled list after the end, in every scope; then off, by the delta too."""
    await everything_configured(at)
    held, plain = await at.certificate("held"), await at.certificate("plain")
    await at.status.revocations.hold(ByCertificate(held.der), ORDER)
    await at.revoke(plain)
    await at.status.schedule.run_due()
    end = x509.load_der_x509_certificate(held.der).not_valid_after_utc
    at.clock.advance(end - at.clock.now() - 30 * MINUTE)
    await at.status.schedule.run_due()
    at.clock.advance(HOUR)
    await at.status.schedule.run_due()
    paths = {path_of(url) for one in (held, plain) for url in point_urls(one.der)} | {"issuing-1"}
    both = {held.serial, plain.serial}
    after_end = [checked(at, await published(at, path)) for path in paths]
    assert all(one.last_update_utc > end for one in after_end)
    assert set().union(*(serials(one) for one in after_end)) == both
    at.clock.advance(HOUR)
    await at.status.schedule.run_due()
    at.clock.advance(HOUR)
    await at.status.schedule.run_due()
    async for lists in every_list(at):
        assert serials(lists.complete) == set(), lists.path
        for base in lists.earlier:
            assert combine(base, lists.delta) == {}, lists.path


async def test_whatever_happens_all_lists_agree_with_the_records(at: StatusWorld, tmp_path: Path) -> None:
    await everything_configured(at)
    await at.world.template(TEMPLATE.replace('"device"', '"phone"'), "phone")
    rng = random.Random(1)
    issued = [await at.certificate(f"d{n}", template=rng.choice(["device", "phone"])) for n in range(4)]
    for step in range(12):
        match step:
            case 3:
                await rekeyed(at)
            case 6:
                await at.world.road.succession.renew("issuing", ACTOR)
            case 9:
                await everything_configured(at, base_url="http://new.example")
        if step in {3, 6, 9}:
            issued += [await at.certificate(f"d{step}{n}", template=rng.choice(["device", "phone"])) for n in range(2)]
        for _ in range(3):
            await _some_change(at, rng.choice(issued), rng)
        at.clock.advance(rng.choice([5, 15, 65]) * MINUTE)
        await at.status.schedule.run_due()
        if step in {2, 5, 8, 11}:
            await _agree(at, tmp_path, issued)


async def _agree(at: StatusWorld, folder: Path, issued: list[IssuedCertificate]) -> None:
    found = await everything_issued(at)
    for one in issued:
        revoked = await is_revoked(at, one)
        # under the key's own name, whichever host the URL has
        mine = [found[url.partition("/crl/")[2].removesuffix(".crl")] for url in point_urls(one.der)]
        assert len(mine) == 3
        for url, lists in zip(point_urls(one.der), mine, strict=True):
            assert (one.serial in serials(lists.complete)) is revoked, lists.path
            scope = value(lists.complete, IDP)
            if scope.full_name is not None:  # of the first key, the list of users is about all keys' users
                assert url in [name.value for name in scope.full_name]
            assert scope.only_contains_user_certs
    root = [await published(at, path) for path in ("root-1", "root-1/authorities", "root-1/users")]
    for one in issued[-3:]:
        revoked = await is_revoked(at, one)
        mine = [found[url.partition("/crl/")[2].removesuffix(".crl")] for url in point_urls(one.der)]
        verdict = openssl(at, folder, one, [*root, *(file for lists in mine for file in lists.files)])
        assert verdict.endswith(": OK") is not revoked, verdict


async def is_revoked(at: StatusWorld, one: IssuedCertificate) -> bool:
    """What the records say."""
    issuer_id = at.issuing.issuer_id
    record = await at.world.database.read(lambda c: certificates.by_serial(c, issuer_id, one.serial))
    assert record is not None
    return record.revocation is not None


async def _some_change(at: StatusWorld, issued: IssuedCertificate, rng: random.Random) -> None:
    revocations, selector = at.status.revocations, ByCertificate(issued.der)
    try:
        match rng.randrange(4):
            case 0 | 1:
                await revocations.hold(selector, ORDER)
            case 2:
                await revocations.release(selector, ORDER)
            case _:
                await revocations.revoke(selector, RevocationReason.SUPERSEDED, ORDER)
    except Rejected:
        return
