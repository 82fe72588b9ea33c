"""Where lists of other CAs come from: web servers, directories, files; whole, in parts, and as deltas."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import blockingCallFromThread

from pkiserver.authority.configuration import Configuration
from pkiserver.authority.documents import Kind, read_documents
from pkiserver.authority.status.turns import Turns
from pkiserver.authority.validation import feeds
from pkiserver.authority.validation.settings import ForeignAnswers, ForeignCa, LdapFeed, Unlisted, load_foreign
from pkiserver.foundation.errors import Rejected, Unavailable
from pkiserver.foundation.tomlfile import dump
from tests.protocols.ocsp.foreign_site import ELSEWHERE, GOOD, ODD, REVOKED, SILENT, TRY_LATER, Other, Site, site
from tests.support.slapd import SUFFIX, Slapd

__all__ = ["site"]
reactor: Any = _reactor
LONG = ForeignAnswers(validity=timedelta(days=2), unknown_validity=timedelta(days=2))


@pytest.fixture
def slapd() -> Iterator[Slapd]:
    server = Slapd(public=True)
    yield server
    server.discard()


def until(wanted: Callable[[], bool]) -> None:
    patience = time.monotonic() + 60
    while not wanted():
        assert time.monotonic() < patience
        time.sleep(0.02)


def put(slapd: Slapd, name: str, **lists: bytes) -> None:
    values = "".join(f"{key};binary:: {b64encode(value).decode()}\n" for key, value in lists.items())
    slapd.load(f"dn: cn={name},{SUFFIX}\nobjectClass: cRLDistributionPoint\ncn: {name}\n{values}")


def test_parts_and_deltas_come_from_web_directory_and_file(site: Site, slapd: Slapd, tmp_path: Path) -> None:
    points = [f"http://other.example/{number}.crl" for number in range(3)]
    hold, removed = x509.ReasonFlags.certificate_hold, x509.ReasonFlags.remove_from_crl
    site.served["/lists/0.crl"] = site.other.crl({10: None}, point=points[0])
    in_directory = site.other.crl({20: hold, 21: None}, point=points[1])
    number = site.other.number
    put(
        slapd,
        "one",
        certificateRevocationList=in_directory,
        deltaRevocationList=site.other.crl({20: removed, 22: None}, base=number, point=points[1]),
    )
    on_disk = tmp_path / "2.crl"
    on_disk.write_bytes(site.other.crl({30: None}, point=points[2]))
    entry = f"{slapd.url}/cn=one,{SUFFIX}"
    ca = site.describe(
        "0.crl",
        f"{entry}?certificateRevocationList?base?objectClass=cRLDistributionPoint",
        f"{entry}?deltaRevocationList;binary",
        f"file://{on_disk}",
        unlisted=Unlisted.GOOD,
    )
    count = site.fetch(ca)
    assert count == 4, [one.text for one in site.services.authorities.problems()]
    site.install(ca)
    revoked = {serial for serial in range(9, 32) if site.status(serial) is REVOKED}
    assert revoked == {10, 21, 22, 30}
    assert site.status(20) is GOOD, "the delta took it off"


def test_sources_that_go_away_are_told_and_followed_again_when_they_are_back(
    site: Site, slapd: Slapd, tmp_path: Path
) -> None:
    """Meanwhile the last lists count; nothing is asked twice within the interval but what failed."""
    entry, on_disk = f"cn=one,{SUFFIX}", tmp_path / "one.crl"
    points = [f"http://other.example/{number}.crl" for number in range(2)]
    put(slapd, "one", certificateRevocationList=site.other.crl({20: None}, point=points[0]))
    on_disk.write_bytes(site.other.crl({30: None}, point=points[1]))
    ca = site.describe(f"{slapd.url}/{entry}?certificateRevocationList", f"file://{on_disk}", unlisted=Unlisted.GOOD)
    assert site.fetch(ca) == 2
    site.install(ca)
    slapd.stop()
    on_disk.unlink()
    assert site.fetch(ca) == 0
    file_gone, directory_gone = (one.text for one in site.services.authorities.problems())
    assert file_gone == f"file://{on_disk}: cannot be read: No such file or directory"
    assert "cannot connect" in directory_gone
    assert [site.status(serial) for serial in (20, 21, 30, 31)] == [REVOKED, GOOD, REVOKED, GOOD]
    slapd.start()
    slapd.load(
        f"dn: {entry}\nchangetype: modify\nreplace: certificateRevocationList;binary\n"
        f"certificateRevocationList;binary:: "
        f"{b64encode(site.other.crl({20: None, 21: None}, point=points[0])).decode()}\n"
    )
    on_disk.write_bytes(site.other.crl({30: None, 31: None}, point=points[1]))
    site.server.at.clock.advance(timedelta(seconds=30))
    assert site.server.run(site.services.feeds.run_due) == 2, "after a failure it is tried again soon"
    assert site.services.authorities.problems() == ()
    assert [site.status(serial) for serial in (20, 21, 30, 31)] == [REVOKED] * 4


def test_a_source_that_never_answers_delays_no_other_authority(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "MEANWHILE", 0.02)
    site.served["/lists/full.crl"] = site.other.crl({})
    site.describe("silent.crl", name="away")
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    [looking] = blockingCallFromThread(reactor, lambda: [Deferred.fromCoroutine(site.services.feeds.run_due())])
    try:
        site.install(ca)
        until(lambda: site.status(5) is GOOD)
        site.served["/lists/full.crl"] = site.other.crl({5: None})
        site.server.at.clock.advance(ca.interval)
        until(lambda: site.status(5) is REVOKED)
        assert site.asked.count(SILENT) == 1
        assert not looking.called
    finally:
        blockingCallFromThread(reactor, looking.addErrback(lambda failure: failure.trap(CancelledError)).cancel)


def test_sources_that_hang_are_asked_by_one_process_at_a_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes with one after the other."""
    ca = site.describe(*(f"{number}.crl" for number in range(9)))
    world, clock, steady = site.server.at.world, site.server.at.clock, Clock()
    authorities, importer = site.services.authorities, site.services.importer
    first = feeds.FeedKeeper(
        world.database, authorities, importer, Turns(world.database, clock, "first", steady), clock
    )
    asked: list[str] = []
    by_both: list[str] = []
    hanging: list[str] = []

    async def fetch_list(url: str, _etag: str) -> Any:
        by_both.extend(hanging)
        asked.append(url)
        if not hanging:
            hanging.append(url)
            for _ in range(13):
                clock.advance(timedelta(seconds=10))
                steady.advance(10)
                await world.database.write(lambda _connection: None)  # behind the sign of life
            await site.services.feeds.run_due()
            hanging.clear()
        raise Unavailable("no answer")

    monkeypatch.setattr(feeds, "fetch_list", fetch_list)
    site.server.run(first.run_due)
    assert by_both == []
    assert asked == list(ca.feeds)


def test_a_list_that_is_refused_stays_told_and_one_that_has_ended_is_asked_for_soon(site: Site) -> None:
    site.served["/lists/full.crl"] = site.other.crl({5: None}, lasting=timedelta(hours=1))
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD, interval=timedelta(minutes=10))
    assert site.fetch(ca) == 1
    clock, run = site.server.at.clock, site.services.feeds.run_due
    clock.advance(timedelta(minutes=61))
    for _ in range(3):
        before = len(site.asked)
        site.server.run(run)
        clock.advance(timedelta(seconds=30))
        assert len(site.asked) == before + 1
    site.served["/lists/full.crl"] = site.other.crl({}, start=clock.now(), key=ec.generate_private_key(ec.SECP256R1()))
    for _ in range(2):
        assert site.fetch(ca) == 0
        assert any("signature" in one.text for one in site.services.authorities.problems()), "it has not changed"


def test_of_parts_the_oldest_says_since_when_and_the_first_to_end_until_when(site: Site) -> None:
    now = site.other.now
    points = [f"http://other.example/{number}.crl" for number in range(2)]
    old = site.other.crl({10: None}, point=points[0], start=now - timedelta(hours=5), lasting=timedelta(hours=9))
    site.served["/lists/0.crl"] = old
    site.served["/lists/1.crl"] = site.other.crl({20: None}, point=points[1], start=now - timedelta(hours=1))
    ca = site.describe("0.crl", "1.crl", unlisted=Unlisted.GOOD, tolerance=timedelta(0), ocsp=LONG)
    assert site.fetch(ca) == 2
    site.install(ca)
    _, found = site.answer(4)
    assert (found.this_update_utc, found.next_update_utc) == (now - timedelta(hours=5), now + timedelta(hours=4))
    site.server.at.clock.advance(timedelta(hours=4))
    assert [site.status(serial) for serial in (4, 10, 20)] == [TRY_LATER] * 3


def test_a_delta_alone_says_nothing(site: Site) -> None:
    site.served["/lists/delta.crl"] = site.other.crl({5: None}, base=1)
    ca = site.describe("delta.crl", unlisted=Unlisted.GOOD)
    assert site.fetch(ca) == 1
    site.install(ca)
    assert [site.status(serial) for serial in (4, 5)] == [TRY_LATER] * 2
    assert any("belongs to no complete list" in one.text for one in site.services.authorities.problems())


def test_a_feed_that_is_taken_out_says_nothing_any_more(site: Site) -> None:
    points = [f"http://other.example/{number}.crl" for number in range(2)]
    for number, serial in enumerate((10, 20)):
        site.served[f"/lists/{number}.crl"] = site.other.crl({serial: None}, point=points[number])
    ca = site.describe("0.crl", "1.crl", unlisted=Unlisted.GOOD)
    assert site.fetch(ca) == 2
    site.install(ca)
    assert [site.status(serial) for serial in (10, 20)] == [REVOKED, REVOKED]
    fewer = site.describe("0.crl", unlisted=Unlisted.GOOD)
    site.fetch(fewer)
    assert [site.status(serial) for serial in (10, 20)] == [REVOKED, GOOD]
    assert site.services.authorities.state("other", ca.feeds[1]) is None
    site.served["/lists/1.crl"] = site.other.crl({21: None}, point=points[1])
    site.fetch(site.describe("0.crl", "1.crl", unlisted=Unlisted.GOOD))
    assert [site.status(serial) for serial in (10, 20, 21)] == [REVOKED, GOOD, REVOKED]


def test_a_directory_with_two_lists_says_nothing(site: Site, slapd: Slapd) -> None:
    values = "".join(
        f"certificateRevocationList;binary:: {b64encode(site.other.crl({number: None})).decode()}\n"
        for number in (5, 6)
    )
    slapd.load(f"dn: cn=two,{SUFFIX}\nobjectClass: cRLDistributionPoint\ncn: two\n{values}")
    ca = site.describe(f"{slapd.url}/cn=two,{SUFFIX}?certificateRevocationList")
    assert site.fetch(ca) == 0
    assert any("has 2 values" in one.text for one in site.services.authorities.problems())


def test_a_list_with_an_odd_etag_is_taken(site: Site) -> None:
    site.served[ODD] = site.other.crl({5: None})
    ca = site.describe("odd.crl", unlisted=Unlisted.GOOD)
    assert site.fetch(ca) == 1
    assert site.fetch(ca) == 0
    site.install(ca)
    assert (site.status(5), site.status(6)) == (REVOKED, GOOD)


def test_what_nobody_foresaw_about_a_source_is_told_of_it_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.served["/lists/full.crl"] = site.other.crl({5: None})
    strange, ca = site.describe("strange.crl", name="a-strange"), site.describe("full.crl", unlisted=Unlisted.GOOD)
    real = feeds.fetch_list

    async def fetch_list(url: str, etag: str) -> Any:
        if url in strange.feeds:
            raise LookupError("never seen before")
        return await real(url, etag)

    monkeypatch.setattr(feeds, "fetch_list", fetch_list)
    assert site.server.run(site.services.feeds.run_due) == 1
    told = [one.text for one in site.services.authorities.problems() if one.authority == strange.name]
    assert f"{strange.feeds[0]}: unexpected: LookupError: never seen before" in told
    site.install(ca)
    assert site.status(5) is REVOKED
    assert site.server.run(site.services.feeds.run_due) == 0, "it is left alone for a while, as others that fail"


def test_no_redirect_is_followed(site: Site) -> None:
    site.served["/lists/full.crl"] = site.other.crl({5: None})
    ca = site.describe("elsewhere.crl", unlisted=Unlisted.GOOD)
    assert site.fetch(ca) == 0
    assert site.asked == [ELSEWHERE]
    assert f"{ca.feeds[0]}: the answer has status 302" in [one.text for one in site.services.authorities.problems()]


def test_without_the_database_lists_in_memory_go_on_answering_until_they_end(site: Site) -> None:
    site.served["/lists/full.crl"] = site.other.crl({5: None}, lasting=timedelta(hours=2))
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD, tolerance=timedelta(0))
    site.fetch(ca)
    site.install(ca)
    site.server.run(site.server.at.world.database.close)
    site.server.at.clock.advance(timedelta(hours=1))
    assert (site.status(4), site.status(5)) == (GOOD, REVOKED)
    site.server.at.clock.advance(timedelta(hours=1))
    assert (site.status(4), site.status(5)) == (TRY_LATER, TRY_LATER)


def test_a_directory_that_has_no_list_is_told(site: Site, slapd: Slapd) -> None:
    ca = site.describe(f"{slapd.url}/{SUFFIX}?certificateRevocationList")
    assert site.fetch(ca) == 0
    assert any("0 values of certificateRevocationList" in one.text for one in site.services.authorities.problems())


def test_only_urls_that_mean_one_list_are_taken(site: Site) -> None:
    found = LdapFeed.parse("ldap://h:1389/cn=a%20b,dc=x?certificateRevocationList;binary?base?(cn=a)")
    assert (found.server, found.dn, found.attribute) == (
        "ldap://h:1389",
        "cn=a b,dc=x",
        "certificateRevocationList;binary",
    )
    text = dump(site.describe("full.crl"))
    good = f"{site.base}full.crl"
    line = text[: text.index("feeds =")].count("\n") + 1
    for bad in (
        "ldap://h/dc=x",
        "ldap://h/dc=x?a,b",
        "ldap://h/dc=x?a?sub",
        "ldap://h/dc=x?a?base?(cn=a",
        "ldap://h/dc=x?a?base?(cn=a)?e-bindname=cn",
        "ldap:///dc=x?a",
        "https://h/a.crl",
        "file://host/a.crl",
        "file:///a.crl#b",
        "file:///a.crl?b",
        "file:///",
        "http://h:99999/a.crl",
        "http://h:0/a.crl",
        "http://h:/a.crl",
        "http://h:http/a.crl",
        "http://ann@h/a.crl",
        "http://ann:hunter2@h/a.crl",
        "http://@h/a.crl",
        "http://h/a.crl#b",
        "http://h/a.crl#",
        "http:///a.crl",
        "ldap://h:65536/dc=x?a",
        "ldap://cn=a:hunter2@h/dc=x?a",
        "ldap://h/dc=x?a#b",
    ):
        with pytest.raises(Rejected, match="is not where a list can be had") as refused:
            load_foreign(text.replace(good, bad), "foreign.toml")
        assert str(refused.value).startswith(f"foreign.toml:{line}: feeds: ")
        assert "(allowed: http://HOST[:PORT]/PATH, file:///PATH, or ldap://" in str(refused.value)
        assert "hunter2" not in str(refused.value)
    for fine in ("http://[::1]:8080/a.crl?b=c", "http://h/a%20b", "file:///a%23b.crl", "ldap://h:1389/dc=x?a"):
        assert load_foreign(text.replace(good, fine), "foreign.toml").feeds == (fine,)


def test_numbers_of_twenty_octets_are_understood(site: Site) -> None:
    """RFC 5280 section 5.2.3 asks it of whoever reads lists."""
    site.other.number = (1 << 159) - 2
    site.served["/lists/full.crl"] = site.other.crl({5: None})
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    assert site.fetch(ca) == 1
    site.install(ca)
    assert (site.status(4), site.status(5)) == (GOOD, REVOKED)


def test_a_stranger_with_the_same_name_changes_nothing(site: Site, tmp_path: Path) -> None:
    stranger = Other(site.other.now)
    file = tmp_path / "full.crl"
    file.write_bytes(stranger.crl({4: None}))
    ca = site.describe(f"file://{file}", unlisted=Unlisted.GOOD)
    assert site.fetch(ca) == 0
    assert any("signature is not the issuer's" in one.text for one in site.services.authorities.problems())


def test_lists_are_forgotten_with_the_authority_that_they_were_of(site: Site) -> None:
    site.served["/lists/full.crl"] = site.other.crl({5: None})
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    assert site.fetch(ca) == 1
    world, [feed] = site.server.at.world, ca.feeds
    configuration = Configuration(world.database, world.audit, site.server.at.clock)
    stranger = Other(site.other.now).certificate().public_bytes(Encoding.PEM).decode()

    async def apply(new: ForeignCa) -> None:
        documents = read_documents([("other.toml", dump(new))], {Kind.FOREIGN_CA: load_foreign})
        await configuration.apply(await configuration.plan(documents), by="tester")
        await site.services.authorities.refresh()

    site.server.run(lambda: apply(attrs.evolve(ca, tolerance=timedelta(minutes=5))))
    assert site.services.authorities.state("other", feed) is not None, "the authority is the same"
    site.server.run(lambda: apply(attrs.evolve(ca, certificate=stranger)))
    assert site.services.authorities.state("other", feed) is None
