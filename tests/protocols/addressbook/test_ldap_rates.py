"""Harvesting: how much one caller may ask and get."""

from __future__ import annotations

import pytest

from pkiserver.runtime.config import LdapSettings
from pkiserver.runtime.ldapsettings import CallerSettings
from protocols.addressbook.callers import Abuse, Caller, Meter
from protocols.addressbook.errors import LdapError, LimitHit
from protocols.addressbook.limits import BookPolicy, CallerPolicy
from tests.protocols.addressbook.support import BASE, Site
from tests.protocols.addressbook.wire import equality, receive, search


@pytest.fixture(scope="module")
def ldap_settings() -> LdapSettings:
    return LdapSettings(base=BASE, anonymous=CallerSettings(searches_per_minute=600, results_per_hour=12))


def test_results_of_an_hour_are_counted_and_then_nobody_is_told_anything(site: Site) -> None:
    site.issue("Alice", "alice@example.com")
    with site.connect() as one:
        for number in range(1, 13):
            one.sendall(search(equality("mail", "alice@example.com"), number=number))
            assert receive(one, 2)[1][2] == 0
        for address in ("alice@example.com", "nobody@example.com"):
            one.sendall(search(equality("mail", address), number=20))
            assert receive(one, 1) == [(20, 0x65, 11)]
    with site.connect() as one:  # another connection is the same caller
        one.sendall(search(equality("mail", "alice@example.com")))
        assert receive(one, 1) == [(1, 0x65, 11)]
    text = site.run(
        "curl", "-s", "-w", "%{http_code}", f"http://127.0.0.1:{site.http}/addressbook/certificate?mail=x@y.z"
    )
    assert text.endswith("429")
    assert site.service.metrics.limit_count(LimitHit.RESULT_RATE) == 4


def test_searches_of_a_minute_are_counted(site: Site) -> None:
    with site.connect() as one:
        one.sendall(b"".join(search(equality("mail", "nobody@example.com"), number=n) for n in range(1, 300)))
        codes = [code for _, _, code in receive(one, 299)]
    assert codes.count(51) > 150


def test_failed_binds_are_counted(site: Site) -> None:
    abuse = Abuse(BookPolicy(BASE, binds_per_minute=3))
    for _ in range(3):
        abuse.binding("a", 0.0)
        abuse.failed_bind("a", 0.0)
    with pytest.raises(LdapError):
        abuse.binding("a", 0.1)
    abuse.binding("b", 0.1)
    abuse.binding("a", 30.0)
    del site


def test_meters_refill_and_are_bounded() -> None:
    meter = Meter()
    assert all(meter.take("x", 0.0, per_second=1, burst=5) for _ in range(5))
    assert not meter.take("x", 0.5, per_second=1, burst=5)
    assert meter.take("x", 1.6, per_second=1, burst=5)
    for number in range(70_000):
        meter.take(str(number), 2.0, per_second=1, burst=5)
    assert len(meter._buckets) == 65_536


def test_trusted_networks_are_not_counted() -> None:
    import ipaddress

    policy = BookPolicy(BASE, anonymous=CallerPolicy(1, 3, 60, 1), trusted=(ipaddress.ip_network("10.0.0.0/8"),))
    abuse = Abuse(policy)
    assert abuse.is_trusted("10.1.2.3")
    assert not abuse.is_trusted("192.0.2.1")
    assert not abuse.is_trusted("local")
    gateway = Caller("10.1.2.3", trusted=True)
    for _ in range(100):
        abuse.searching(gateway, 0.0)
        abuse.gave(gateway, 5, 0.0)
