"""Status for a CA that is not ours, which openssl runs: its lists are fed in, a responder of ours answers."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from pkiserver.authority.lifecycle.ceremonies import ExistingAuthority
from pkiserver.authority.validation.reading import IN_PLACE
from pkiserver.authority.validation.settings import Unlisted
from pkiserver.foundation.errors import Rejected
from pkiserver.keys.algorithms import KeyType
from pkiserver.store.authority import foreign
from protocols.web.conditional import http_date
from tests.authority.status_world import lint_ocsp
from tests.authority.world import ACTOR
from tests.protocols.ocsp.asking import in_target
from tests.protocols.ocsp.foreign_site import DAY, GOOD, REVOKED, TRY_LATER, UNKNOWN, Other, Site, reactor, site
from tests.protocols.status_server import tool

__all__ = ["site"]


def test_a_fed_list_is_answered_from_and_openssl_believes_it(site: Site) -> None:
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    assert site.status(5) is TRY_LATER, "no list and no responder yet"
    site.served["/lists/full.crl"] = site.other.crl(
        {5: x509.ReasonFlags.key_compromise, 6: None, (1 << 159) - 1: x509.ReasonFlags.certificate_hold}
    )
    assert site.fetch(ca) == 1
    assert site.status(5) is TRY_LATER, "no responder yet"
    site.install(ca)
    assert [site.status(serial) for serial in (4, 5, 6, (1 << 159) - 1)] == [GOOD, REVOKED, REVOKED, REVOKED]
    answer, found = site.answer(5)
    assert found.revocation_reason is x509.ReasonFlags.key_compromise
    assert found.revocation_time_utc == site.other.now - DAY
    assert found.this_update_utc == site.other.now
    for serial in (4, 5, 6):
        assert lint_ocsp(site.answer(serial)[0].body) == []
    files = [
        site.server.file(f"{name}.pem", one.public_bytes(Encoding.DER))
        for name, one in (("ca", site.other.certificate()), ("four", site.other.leaf(4)), ("five", site.other.leaf(5)))
    ]
    said = tool(
        *("openssl", "ocsp", "-url", f"{site.server.url}/ocsp", "-CAfile", files[0], "-issuer", files[0]),
        *("-cert", files[1], "-cert", files[2]),
    )
    assert "Response verify OK" in said
    assert "four.pem: good" in said
    assert "five.pem: revoked" in said
    assert answer.status == 200


def test_before_anything_was_read_nobody_is_called_a_stranger(site: Site) -> None:
    assert site.status(5) is TRY_LATER
    site.server.run(site.services.authorities.refresh)
    assert site.status(5) is ocsp.OCSPResponseStatus.UNAUTHORIZED


def test_policy_decides_about_serials_on_no_list(site: Site) -> None:
    site.served["/lists/full.crl"] = site.other.crl({5: None})
    ca = site.describe("full.crl", unlisted=Unlisted.UNKNOWN)
    site.fetch(ca)
    site.install(ca)
    assert (site.status(4), site.status(5)) == (UNKNOWN, REVOKED)
    ca = site.describe("full.crl", unlisted=Unlisted.ALLOW_LIST)
    assert site.status(4) is UNKNOWN
    assert any("issued" in one.text for one in site.services.authorities.problems())
    site.server.run(lambda: site.services.importer.take_issued(ca, b"04\n00:07  # seven\n\n", actor="tester"))
    site.server.run(site.services.authorities.refresh)
    assert [site.status(serial) for serial in (4, 5, 6, 7)] == [GOOD, REVOKED, UNKNOWN, GOOD]
    assert site.services.authorities.problems() == ()
    with pytest.raises(Rejected, match="line 2"):
        site.server.run(lambda: site.services.importer.take_issued(ca, b"04\nfour\n", actor="tester"))


def test_deltas_and_parts_add_up(site: Site, tmp_path: Path) -> None:
    hold, removed = x509.ReasonFlags.certificate_hold, x509.ReasonFlags.remove_from_crl
    points = ["http://other.example/1.crl", "http://other.example/2.crl"]
    on_disk = tmp_path / "two.crl"
    site.served["/lists/1.crl"] = site.other.crl({5: hold, 6: None}, point=points[0])
    on_disk.write_bytes(site.other.crl({9: None}, point=points[1]))
    site.served["/lists/1-delta.crl"] = site.other.crl({5: removed, 7: None}, base=1, point=points[0])
    ca = site.describe("1.crl", f"file://{on_disk}", "1-delta.crl", unlisted=Unlisted.GOOD)
    assert site.fetch(ca) == 3
    site.install(ca)
    assert [site.status(serial) for serial in (5, 6, 7, 8, 9)] == [GOOD, REVOKED, REVOKED, GOOD, REVOKED]
    # A later complete list makes the delta superfluous; a delta for a list that is not there yet has to wait.
    site.served["/lists/1.crl"] = site.other.crl({6: None}, point=points[0])
    assert site.fetch(ca) == 1
    assert [site.status(serial) for serial in (5, 6, 7)] == [GOOD, REVOKED, GOOD]
    site.served["/lists/1-delta.crl"] = site.other.crl({8: None}, base=site.other.number + 1, point=points[0])
    assert site.fetch(ca) == 1
    assert site.status(8) is GOOD
    del site.served["/lists/1.crl"]
    site.describe("gone.crl", f"file://{on_disk}", unlisted=Unlisted.GOOD)
    assert site.status(9) is TRY_LATER, "one part is missing: nothing can be said"


def test_an_answer_from_before_a_hold_is_not_given_again_after_it(site: Site) -> None:
    """Of two parts the other one, which stays, says since when all is right; another process told of the hold."""
    points = [f"http://other.example/{number}.crl" for number in range(2)]
    now = site.server.at.clock.now
    hold = x509.ReasonFlags.certificate_hold

    def serve(entries: dict[int, x509.ReasonFlags | None]) -> None:
        site.served["/lists/1.crl"] = site.other.crl(entries, point=points[1], start=now(), lasting=2 * DAY)
        assert site.fetch(ca)
        site.server.at.clock.advance(timedelta(minutes=1))

    site.served["/lists/0.crl"] = site.other.crl({}, point=points[0], start=now())
    ca = site.describe("0.crl", "1.crl", unlisted=Unlisted.GOOD)
    serve({})
    site.install(ca)
    builder = ocsp.OCSPRequestBuilder().add_certificate(site.other.leaf(5), site.other.certificate(), hashes.SHA1())
    path = in_target(builder.build().public_bytes(Encoding.DER))
    first = site.server.ask("GET", path)
    serve({5: hold})
    told = http_date(now())
    serve({})
    again = site.server.ask("GET", path, If_Modified_Since=told)
    assert (first.status, again.status) == (200, 200)
    assert again.headers["last-modified"] != first.headers["last-modified"]


def test_lists_that_are_too_old_say_nothing_any_more(site: Site) -> None:
    site.served["/lists/full.crl"] = site.other.crl({5: None}, lasting=timedelta(hours=2))
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD, tolerance=timedelta(minutes=30))
    site.fetch(ca)
    site.install(ca)
    clock = site.server.at.clock
    clock.advance(timedelta(hours=2, minutes=29))
    site.server.run(site.server.at.status.directory.refresh)
    _, found = site.answer(4)
    assert found.certificate_status is GOOD
    assert found.next_update_utc == site.other.now + timedelta(hours=2, minutes=30)
    clock.advance(timedelta(minutes=1))
    assert site.status(4) is TRY_LATER
    assert site.status(5) is TRY_LATER
    assert [one.text for one in site.services.authorities.problems()] == ["its lists are out of date"]
    site.served["/lists/full.crl"] = site.other.crl({5: None}, start=clock.now())
    assert site.server.run(site.services.feeds.run_due) == 1
    assert site.status(4) is GOOD


def test_feeds_are_looked_at_by_the_clock_and_only_new_lists_travel(site: Site) -> None:
    site.served["/lists/full.crl"] = site.other.crl({5: None})
    ca = site.describe("full.crl", interval=timedelta(minutes=10))
    run = site.services.feeds.run_due
    assert site.server.run(run) == 1
    assert site.server.run(run) == 0
    assert len(site.asked) == 1
    site.server.at.clock.advance(ca.interval)
    assert site.server.run(run) == 0
    assert len(site.asked) == 2, "asked again, and told that nothing changed"
    site.served.clear()
    site.server.at.clock.advance(ca.interval)
    assert site.server.run(run) == 0
    [problem] = [one.text for one in site.services.authorities.problems() if "status 404" in one.text]
    assert "full.crl" in problem
    site.server.at.clock.advance(timedelta(seconds=30))
    site.served["/lists/full.crl"] = site.other.crl({5: None})
    assert site.server.run(run) == 1, "after a failure it is tried again soon"


def test_foreign_older_and_unreadable_lists_change_nothing(site: Site) -> None:
    old = site.other.crl({})
    site.served["/lists/full.crl"] = site.other.crl({5: None})
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    site.fetch(ca)
    site.install(ca)
    whole = site.other.crl({})
    cases = {
        "list 1 of": old,
        "is older than what is there": site.other.crl({}, start=site.other.now - timedelta(hours=2)),
        "signature": site.other.crl({}, key=ec.generate_private_key(ec.SECP256R1())),
        "not a certificate revocation list": whole[:-1],
        "gave a complete list": site.other.crl({}, base=1),
        "future": site.other.crl({}, start=site.other.now + DAY),
    }
    for why, data in cases.items():
        site.served["/lists/full.crl"] = data
        assert site.fetch(ca) == 0
        assert any(why in one.text for one in site.services.authorities.problems()), why
        assert (site.status(4), site.status(5)) == (GOOD, REVOKED)


def test_certificates_that_nobody_would_believe_are_not_installed(site: Site) -> None:
    ca = site.describe("full.crl")
    made = site.server.run(
        lambda: site.services.responders.request(ca, key_type=KeyType.parse("rsa-2048"), store="softhsm", actor="t")
    )
    asked = x509.load_der_x509_csr(made.der)
    assert asked.extensions.get_extension_for_class(x509.OCSPNoCheck)
    stranger = Other(site.other.now)
    wrong = {
        "itself": stranger.responder(made.der),
        "OCSPSigning": site.other.responder(made.der, usage=False),
        "does not permit signatures": site.other.responder(made.der, signs=False),
        "expired": site.other.responder(made.der, end=site.other.now - timedelta(hours=1)),
        "its key is none": site.other.leaf(8).public_bytes(Encoding.DER),
        "not a usable": b"0",
    }
    for why, certificate in wrong.items():
        with pytest.raises(Rejected, match=why):
            site.server.run(
                lambda certificate=certificate: site.services.responders.install(ca, certificate, actor="tester")
            )


def test_our_own_offline_root_is_answered_for_by_the_same_means(site: Site) -> None:
    """A root of ours whose key is in a safe: the authority is known here, but nobody can sign for it."""
    certificate = site.other.certificate().public_bytes(Encoding.DER)

    async def adopt() -> None:
        existing = ExistingAuthority("offline", certificate)
        await site.server.at.world.road.ceremonies.import_authority(existing, ACTOR)
        await site.server.at.status.directory.refresh()

    site.server.run(adopt)
    assert site.status(5) is TRY_LATER
    site.served["/lists/root.crl"] = site.other.crl({5: x509.ReasonFlags.cessation_of_operation})
    ca = site.describe("root.crl", name="offline", unlisted=Unlisted.GOOD)
    site.fetch(ca)
    site.install(ca)
    assert (site.status(4), site.status(5)) == (GOOD, REVOKED)


def test_a_long_list_comes_in_at_once_and_whole(site: Site) -> None:
    """Read by a process of its own; whoever asks meanwhile is told by the old list or by the new one."""
    first, second = range(1000, 5000), range(3000, 7000)
    site.served["/lists/full.crl"] = site.other.crl(dict.fromkeys(first))
    assert len(site.served["/lists/full.crl"]) > IN_PLACE
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    site.fetch(ca)
    site.install(ca)
    probes = (999, 1000, 2999, 3000, 4999, 5000, 6999, 7000)
    assert [site.status(serial) is REVOKED for serial in probes] == [serial in first for serial in probes]
    site.served["/lists/full.crl"] = site.other.crl(dict.fromkeys(second))
    seen: set[tuple[bool, bool]] = set()
    thread = threading.Thread(target=site.fetch, args=(ca,))
    thread.start()
    while thread.is_alive():
        statuses = site.services.authorities.statuses_now
        issuer = site.services.authorities.served("other")
        old, new = statuses(issuer, (1000, 6999)) or (None, None)
        assert old is not None
        assert new is not None
        seen.add((old.revocation is not None, new.revocation is not None))
        assert site.status(3500) is REVOKED
    assert seen <= {(True, False), (False, True)}
    assert [site.status(serial) is REVOKED for serial in probes] == [serial in second for serial in probes]


def test_of_two_looks_at_the_database_the_later_ones_lists_stand(site: Site, monkeypatch: Any) -> None:
    """The earlier one may take longer: it reads a long list, say. What was revoked must not be good again meanwhile."""
    site.served["/lists/full.crl"] = site.other.crl({})
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    site.install(ca)
    authorities, importer = site.services.authorities, site.services.importer
    first, second = site.other.crl({}), site.other.crl({5: None})
    load, begun, go_on = authorities._load, Deferred[None](), Deferred[None]()

    async def slow_at_first(state: Any) -> Any:
        if not begun.called:
            begun.callback(None)
            await go_on
        return await load(state)

    async def overlap() -> None:
        await importer.take(ca, ca.feeds[0], first, actor="tester")
        monkeypatch.setattr(authorities, "_load", slow_at_first)
        earlier = Deferred.fromCoroutine(authorities.refresh())
        await begun
        await importer.take(ca, ca.feeds[0], second, actor="tester")
        later = Deferred.fromCoroutine(authorities.refresh())
        await deferLater(reactor, 0.2)
        go_on.callback(None)
        await earlier
        await later

    site.server.run(overlap)
    assert site.status(5) is REVOKED


def test_a_list_whose_parts_went_while_they_were_read_leaves_the_one_before(site: Site, monkeypatch: Any) -> None:
    """Two newer ones came in between this process's look at what there is and its reading of it."""
    site.served["/lists/full.crl"] = site.other.crl({5: None})
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    site.fetch(ca)
    site.install(ca)
    with monkeypatch.context() as patched:
        patched.setattr(foreign, "parts", lambda *_: ())
        site.served["/lists/full.crl"] = site.other.crl({6: None})
        assert site.fetch(ca) == 1
        assert (site.status(5), site.status(6)) == (REVOKED, GOOD)
    site.server.run(site.services.authorities.refresh)
    assert (site.status(5), site.status(6)) == (GOOD, REVOKED)
