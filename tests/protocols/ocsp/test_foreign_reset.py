"""Feeds that begin anew, or become lists of something else: refused until somebody says that it is meant."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.authority.status.turns import Turns
from pkiserver.authority.validation.settings import ForeignCa, Unlisted
from pkiserver.foundation.errors import PkiError, Rejected, Unavailable
from pkiserver.store import audit as audit_rows
from tests.protocols.ocsp.foreign_site import GOOD, REVOKED, Site, site

__all__ = ["site"]
POINT = "http://other.example/1.crl"


def told(site: Site) -> list[str]:
    return [one.text for one in site.services.authorities.problems()]


def reset(site: Site, ca: ForeignCa, *urls: str) -> int:
    chosen = urls or ca.feeds
    count: int = site.server.run(lambda: site.services.feeds.reset(ca, chosen, actor="tester"))
    return count


def resets(site: Site) -> list[dict[str, str]]:
    """What the audit log has of resets, the newest first."""
    rows = site.server.run(
        lambda: site.server.at.world.database.read(lambda connection: audit_rows.newest_events(connection, limit=5))
    )
    found = [dict(json.loads(row.details)) for row in rows]
    return [one for one in found if one.get("cause") == "reset"]


def test_numbers_that_began_anew_are_taken_when_that_is_meant(site: Site) -> None:
    site.other.number = 40
    site.served["/lists/full.crl"] = site.other.crl({5: None})
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    site.fetch(ca)
    site.install(ca)
    site.other.number = 0
    site.served["/lists/full.crl"] = site.other.crl({6: None})
    assert site.fetch(ca) == 0
    [refusal] = told(site)
    assert refusal.startswith(f"{ca.feeds[0]}: list 1 of ")
    assert refusal.endswith(f"if the numbers began anew: pkiserver responder reset other --feed {ca.feeds[0]}")
    assert (site.status(5), site.status(6)) == (REVOKED, GOOD), "what was there still counts"
    assert resets(site) == []
    assert reset(site, ca) == 1
    assert told(site) == []
    assert (site.status(5), site.status(6)) == (GOOD, REVOKED)
    [event] = resets(site)
    assert (event["source"], event["number"], event["before"]) == (ca.feeds[0], "1", "complete 41")
    assert reset(site, ca) == 0, "it is there already"
    site.served["/lists/full.crl"] = site.other.crl({7: None})
    assert site.fetch(ca) == 1, "and is followed from there"


def test_a_full_list_that_became_a_part_with_a_delta_is_taken_as_a_whole(site: Site) -> None:
    site.served["/lists/a.crl"] = site.other.crl({5: None})
    site.served["/lists/b.crl"] = site.other.crl({8: None}, base=1)
    ca = site.describe("a.crl", "b.crl", unlisted=Unlisted.GOOD)
    site.fetch(ca)
    site.install(ca)
    site.served["/lists/a.crl"] = site.other.crl({6: None}, point=POINT)
    assert site.fetch(ca) == 0
    [refusal] = told(site)
    assert f"if that is meant: pkiserver responder reset other --feed {ca.feeds[0]}" in refusal
    # The delta that belongs to it is not there yet: one without the other would leave nothing to be said.
    del site.served["/lists/b.crl"]
    with pytest.raises(Unavailable, match=r"b\.crl"):
        reset(site, ca)
    assert [site.status(serial) for serial in (5, 6, 8)] == [REVOKED, GOOD, REVOKED]
    number = site.other.number
    site.served["/lists/b.crl"] = site.other.crl({7: None}, base=number, point=POINT)
    assert reset(site, ca) == 2
    assert told(site) == []
    assert [site.status(serial) for serial in (5, 6, 7, 8)] == [GOOD, REVOKED, REVOKED, GOOD]
    # One feed alone: the delta becomes the complete list of another part.
    site.served["/lists/b.crl"] = site.other.crl({9: None}, point="http://other.example/2.crl")
    assert reset(site, ca, ca.feeds[1]) == 1
    assert [site.status(serial) for serial in (6, 7, 9)] == [REVOKED, GOOD, REVOKED]


def test_a_reset_takes_nothing_that_a_new_feed_would_not(site: Site) -> None:
    site.served["/lists/full.crl"] = site.other.crl({5: None})
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    site.fetch(ca)
    site.install(ca)
    site.served["/lists/full.crl"] = site.other.crl({}, key=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(Rejected, match=r"full\.crl: the list's signature is not the issuer's"):
        reset(site, ca)
    with pytest.raises(Rejected, match="is no feed of other"):
        reset(site, ca, "http://elsewhere.example/full.crl")
    assert site.status(5) is REVOKED

    async def at_the_same_time() -> str:
        world = site.server.at.world
        async with Turns(world.database, site.server.at.clock, "another").turn("foreign:other"):
            try:
                await site.services.feeds.reset(ca, ca.feeds, actor="tester")
            except PkiError as error:
                return str(error)
        return ""

    assert "another process is looking" in site.server.run(at_the_same_time)
