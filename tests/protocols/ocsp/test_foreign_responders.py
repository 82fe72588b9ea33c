"""Which of the responders that were installed for another CA signs: the newest that is valid now, without a restart."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp

from pkiserver.authority.validation.settings import ForeignCa, Unlisted
from tests.protocols.ocsp.foreign_site import DAY, GOOD, TRY_LATER, Site, site

__all__ = ["site"]
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


def signer(site: Site) -> int | ocsp.OCSPResponseStatus:
    """The serial number of the certificate that answers about a good certificate."""
    _, found = site.answer(4)
    if found.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return found.response_status
    assert found.certificate_status is GOOD
    assert found.next_update_utc is not None
    [certificate] = found.certificates
    assert found.next_update_utc <= certificate.not_valid_after_utc, "an answer ends with who signed it"
    return certificate.serial_number


def install(site: Site, ca: ForeignCa, serial: int, **more: Any) -> None:
    """One after the other: of two that were installed in the same moment neither is the newer."""
    site.install(ca, serial=serial, **more)
    site.server.at.clock.advance(SECOND)


def advance(site: Site, delta: timedelta) -> None:
    """Time alone passes: nothing is applied, installed or fetched, and nothing that could be is looked at."""
    site.server.at.clock.advance(delta)
    site.server.run(site.server.at.status.directory.refresh)


def test_the_newest_that_is_valid_now_signs_and_time_alone_changes_who_that_is(site: Site) -> None:
    site.served["/lists/full.crl"] = site.other.crl({5: None}, lasting=30 * DAY)
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    site.fetch(ca)
    now = site.other.now
    install(site, ca, 101, end=now + 8 * HOUR)
    install(site, ca, 102, end=now + 2 * HOUR)
    install(site, ca, 103, start=now + 4 * HOUR, end=now + 6 * HOUR)
    for hour, expected in enumerate((102, 102, 101, 101, 103, 103, 101, 101)):
        assert signer(site) == expected
        told = [one.text for one in site.services.authorities.problems()]
        soon = f"the last responder certificate ends at {now + 8 * HOUR:%Y-%m-%d %H:%M:%SZ}"
        assert [text.partition(": pkiserver responder")[0] for text in told] == [soon] * (hour >= 5), "a tenth of 32 h"
        advance(site, HOUR)
    answer, found = site.answer(4)
    assert found.response_status is TRY_LATER
    assert answer.headers["cache-control"] == "no-cache, no-store"
    assert len(answer.body) == 5, "an error is never signed"
    [problem] = site.services.authorities.problems()
    assert "there is no valid responder certificate" in problem.text
    install(site, ca, 104)
    assert signer(site) == 104
    assert site.services.authorities.problems() == ()


def test_a_responder_that_its_authority_revoked_signs_no_more(site: Site) -> None:
    site.served["/lists/full.crl"] = site.other.crl({})
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    site.fetch(ca)
    install(site, ca, 101)
    install(site, ca, 102)
    assert signer(site) == 102
    site.served["/lists/full.crl"] = site.other.crl({102: None})
    assert site.fetch(ca) == 1
    assert signer(site) == 101
    site.served["/lists/full.crl"] = site.other.crl({101: None, 102: None})
    assert site.fetch(ca) == 1
    assert signer(site) is TRY_LATER


def test_a_responder_of_the_authoritys_last_key_does_not_speak_for_its_next(site: Site) -> None:
    """Clients accept a responder only from the very key that signed the certificate that they ask about."""
    site.served["/lists/full.crl"] = site.other.crl({})
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    site.fetch(ca)
    install(site, ca, 101)
    assert signer(site) == 101
    site.other.key = ec.generate_private_key(ec.SECP256R1())
    site.served["/lists/full.crl"] = site.other.crl({})
    ca = site.describe("full.crl", unlisted=Unlisted.GOOD)
    site.fetch(ca)
    assert signer(site) is TRY_LATER
    [problem] = site.services.authorities.problems()
    assert "there is no valid responder certificate" in problem.text
    install(site, ca, 102)
    assert signer(site) == 102
    assert site.services.authorities.problems() == ()
