"""Distribution points: which list a certificate names, what is on each, and that none is ever lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from pkiserver.authority.lifecycle.ceremonies import KeyChoice
from pkiserver.authority.revocation import ByCertificate, Order
from pkiserver.authority.status.offline import read_crl
from pkiserver.authority.status.points import Bounded, DeltaPolicy, Partition, Point
from pkiserver.authority.status.policy import CrlPolicy
from pkiserver.keys.algorithms import KeyType
from pkiserver.store.authority.crls import Covers
from pkiserver.store.certificates import RevocationReason
from tests.authority.crl_world import MINUTE, checked, configure, number, path_of, point_urls, published, serials, value
from tests.authority.status_world import StatusWorld, openssl_crl_check
from tests.authority.world import ACTOR, TEMPLATE

SHARDS = Point(partition=Partition.SHARDS, shards=4)
TEMPLATES = Point(partition=Partition.TEMPLATES)
USERS = Point(covers=Covers.USERS)
AUTHORITIES = Point(covers=Covers.AUTHORITIES)


async def test_a_certificate_is_on_the_shard_that_it_names_for_good(at: StatusWorld, tmp_path: Path) -> None:
    await configure(at, points=(SHARDS, AUTHORITIES))
    issued = [await at.certificate(f"device {n}") for n in range(12)]
    for one in issued:
        await at.revoke(one)
    await at.status.schedule.run_due()
    await configure(at, points=(Point(partition=Partition.SHARDS, shards=1), AUTHORITIES))  # fewer from now on
    at.clock.advance(90 * MINUTE)
    await at.status.schedule.run_due()
    named = {}
    for one in issued:
        [url] = point_urls(one.der)
        named.setdefault(url, set()).add(one.serial)
    assert len(named) > 1
    for url, expected in named.items():
        crl = checked(at, await published(at, path_of(url)))
        assert serials(crl) == expected
        assert number(crl) == 2, "shards that certificates name go on, whatever the settings say"
        point = value(crl, x509.IssuingDistributionPoint)
        assert crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).critical
        assert point.only_contains_user_certs
        assert [name.value for name in point.full_name] == [url]
    root = await published(at, "root-1")
    lists = [root, *[await published(at, path_of(url)) for url in named]]
    assert "certificate revoked" in openssl_crl_check(tmp_path, issued[0].der, issued[0].chain, lists)
    good = await at.certificate("good")
    await at.status.schedule.run_due()
    lists = [root, await published(at, path_of(point_urls(good.der)[0]))]
    now = ("-attime", f"{at.clock.now().timestamp():.0f}")
    assert openssl_crl_check(tmp_path, good.der, good.chain, lists, *now).endswith(": OK")
    other = [root, *[await published(at, path_of(url)) for url in named if url not in point_urls(good.der)]]
    said = openssl_crl_check(tmp_path, good.der, good.chain, other, *now)
    assert "different CRL scope" in said, "the list of another shard says nothing about it"


async def test_the_idp_is_encoded_as_the_distribution_point_of_the_certificate(at: StatusWorld) -> None:
    await configure(at, points=(SHARDS,))
    issued = await at.certificate()
    await at.status.schedule.run_due()
    crl = checked(at, await published(at, path_of(point_urls(issued.der)[0])))
    in_crl = value(crl, x509.IssuingDistributionPoint).public_bytes()
    in_certificate = value(x509.load_der_x509_certificate(issued.der), x509.CRLDistributionPoints).public_bytes()
    name = in_certificate[4:]  # two SEQUENCE headers before distributionPoint [0]
    assert name[0] == 0xA0
    assert name in in_crl


async def test_each_template_has_its_list(at: StatusWorld) -> None:
    await configure(at, points=(TEMPLATES, Point(announced=False)))
    await at.world.template(TEMPLATE.replace('"device"', '"phone"'), "phone")
    device, phone = await at.certificate("d"), await at.certificate("p", template="phone")
    for one in (device, phone):
        await at.revoke(one)
    await at.status.schedule.run_due()
    assert point_urls(phone.der) == ["http://pki.example/crl/issuing-1/templates/phone.crl"]
    crl = checked(at, await published(at, "issuing-1/templates/phone"))
    assert serials(crl) == {phone.serial}
    assert value(crl, x509.IssuingDistributionPoint).only_contains_user_certs
    assert serials(checked(at, await published(at, "issuing-1/templates/device"))) == {device.serial}
    everything = checked(at, await published(at, "issuing-1"))
    assert serials(everything) == {device.serial, phone.serial}
    assert value(everything, x509.IssuingDistributionPoint) is None


async def test_users_and_authorities_have_lists_of_their_own(at: StatusWorld) -> None:
    await configure(at, "root", points=(USERS, AUTHORITIES))
    below = at.issuing.current.certificate
    assert point_urls(below.der) == ["http://pki.example/crl/root-1.crl"]
    renewed = await at.world.road.succession.renew("issuing", ACTOR)
    assert point_urls(renewed.authority.current.certificate.der) == ["http://pki.example/crl/root-1/authorities.crl"]
    order = Order("tester", approved_by="another")
    await at.status.revocations.revoke(ByCertificate(below.der), RevocationReason.SUPERSEDED, order)
    await at.status.schedule.run_due()
    root = at.world.road.authorities.get("root").current.certificate
    cas = read_crl(await published(at, "root-1/authorities"), root).crl
    users = read_crl(await published(at, "root-1/users"), root).crl
    assert serials(cas) == {x509.load_der_x509_certificate(below.der).serial_number}
    assert serials(users) == set()
    assert value(cas, x509.IssuingDistributionPoint).only_contains_ca_certs
    assert value(users, x509.IssuingDistributionPoint).only_contains_user_certs
    assert not value(cas, x509.IssuingDistributionPoint).only_contains_attribute_certs
    old = read_crl(await published(at, "root-1"), root).crl
    assert serials(old) == serials(cas), "what certificates named before goes on"


async def test_a_list_that_certificates_name_never_covers_less(at: StatusWorld, tmp_path: Path) -> None:
    """The same name with other certificates covered: those that name it already are still on it."""
    await configure(at, "root", points=(Point("some"),))
    await at.world.road.succession.renew("issuing", ACTOR)
    leaf = await at.certificate()
    assert point_urls(leaf.chain[0]) == ["http://pki.example/crl/root-1/some.crl"]
    await configure(at, "root", points=(Point("some", covers=Covers.USERS), AUTHORITIES))
    for _ in range(2):
        await at.status.schedule.run_due()
        lists = [await published(at, path) for path in ("issuing-1", "root-1/some")]
        now = ("-attime", f"{at.clock.now().timestamp():.0f}")
        assert openssl_crl_check(tmp_path, leaf.der, leaf.chain, lists, *now).endswith(": OK")
        at.clock.advance(90 * MINUTE)
    order = Order("tester", approved_by="another")
    await at.status.revocations.revoke(ByCertificate(leaf.chain[0]), RevocationReason.SUPERSEDED, order)
    at.clock.advance(MINUTE)
    await at.status.schedule.run_due()
    lists = [await published(at, path) for path in ("issuing-1", "root-1/some")]
    now = ("-attime", f"{at.clock.now().timestamp():.0f}")
    assert "certificate revoked" in openssl_crl_check(tmp_path, leaf.der, leaf.chain, lists, *now)


async def test_lists_bounded_to_their_key_from_the_first(at: StatusWorld) -> None:
    await configure(at, bounded=Bounded.ALWAYS)
    first = await at.certificate("first")
    key = KeyChoice(key_type=KeyType.parse("ec-p256"), store="softhsm")
    await at.world.road.succession.rekey("issuing", key, ACTOR)
    second = await at.certificate("second")
    for one in (first, second):
        await at.revoke(one)
    await at.status.schedule.run_due()
    for index, one in enumerate((first, second)):
        [url] = point_urls(one.der)
        crl = checked(at, await published(at, path_of(url)), index)
        assert serials(crl) == {one.serial}
        assert [name.value for name in value(crl, x509.IssuingDistributionPoint).full_name] == [url]


async def test_a_list_keeps_the_names_that_certificates_have(at: StatusWorld) -> None:
    await configure(at, points=(SHARDS,))
    before = await at.certificate("before")
    await configure(at, points=(Point(partition=Partition.SHARDS, shards=1),), base_url="http://new.example")
    after = await at.certificate("after")
    await at.status.schedule.run_due()
    crl = checked(at, await published(at, "issuing-1/shards/0"))
    names = [name.value for name in value(crl, x509.IssuingDistributionPoint).full_name]
    assert names[0] == point_urls(after.der)[0] == "http://new.example/crl/issuing-1/shards/0.crl"
    path = path_of(point_urls(before.der)[0])
    crl = checked(at, await published(at, path))
    assert point_urls(before.der)[0] in [name.value for name in value(crl, x509.IssuingDistributionPoint).full_name]


async def test_only_the_shard_that_changed_is_issued_again(at: StatusWorld) -> None:
    await configure(at, points=(SHARDS,))
    issued = await at.certificate()
    assert len(await at.status.schedule.run_due()) == 5  # and the root's
    await at.revoke(issued)
    at.clock.advance(MINUTE)
    await at.status.schedule.run_due()
    numbers = {n: number(checked(at, await published(at, f"issuing-1/shards/{n}"))) for n in range(4)}
    mine = int(path_of(point_urls(issued.der)[0])[-1])
    assert numbers == {n: 2 if n == mine else 1 for n in range(4)}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"points": (Point(), Point())}, "same name"),
        ({"points": (SHARDS, Point("more", partition=Partition.SHARDS))}, "one shard only"),
        ({"bounded": Bounded.NEVER, "delta": DeltaPolicy()}, "bounded to their key"),
        ({"delta": DeltaPolicy(interval=2 * 60 * MINUTE, validity=300 * MINUTE)}, "no use"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        CrlPolicy(**settings)


@pytest.mark.parametrize("name", ["../up", "full", "delta", "7", "A"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a distribution point"):
        Point(name)
