"""Answers name the complete list of a key only while that list is there, in time, and goes on being issued."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs
from cryptography import x509
from cryptography.x509 import ocsp

from pkiserver.authority.status.points import Point
from pkiserver.authority.status.policy import CrlPolicy
from pkiserver.foundation.tomlfile import dump
from pkiserver.store.authority import authorities
from pkiserver.store.authority.crls import Covers
from tests.protocols.ocsp.asking import post, read, request
from tests.protocols.status_server import StatusServer

USERS = Point(name="users", covers=Covers.USERS)
QUIET = Point(announced=False)


def settle(server: StatusServer, *, lists: bool = True, **crl: Any) -> None:
    """Other settings of the issuing authority, as ``pkiserver apply`` writes them; then what is due."""

    async def work() -> None:
        at = server.at
        settings = attrs.evolve(
            at.issuing.settings, crl=CrlPolicy(**crl), ocsp=attrs.evolve(at.issuing.settings.ocsp, crl_reference=True)
        )
        text = dump(settings)
        await at.world.database.write(
            lambda connection: authorities.update_authority(connection, "issuing", config=text, state="active")
        )
        await at.world.road.authorities.refresh()
        if lists:
            await at.status.schedule.run_due()
        await at.status.directory.refresh()

    server.run(work)


def references(server: StatusServer, asked: bytes) -> int:
    return len(list(read(post(server, asked)).single_extensions))


def test_a_list_that_is_not_issued_any_more_is_not_named(server: StatusServer) -> None:
    settle(server, points=(QUIET, USERS))
    issued = server.issue()
    asked = request(issued.der, issued.chain[0])
    server.run(lambda: server.at.revoke(issued))
    server.at.clock.advance(timedelta(seconds=11))
    settle(server, points=(QUIET, USERS))
    assert references(server, asked) == 1
    settle(server, points=(USERS,))
    assert references(server, asked) == 0, "its distribution point is gone"
    settle(server, points=(QUIET, USERS), enabled=False)
    assert references(server, asked) == 0, "no lists are issued any more"
    settle(server, points=(QUIET, USERS))
    assert references(server, asked) == 1
    server.at.clock.advance(timedelta(hours=25))
    server.run(server.at.status.responders.run_due)
    settle(server, points=(QUIET, USERS), lists=False)
    assert references(server, asked) == 0, "the newest is past its nextUpdate"


def test_a_list_that_came_after_the_certificate_expired_is_not_named(server: StatusServer) -> None:
    """It is on one such list, and on none after that: who looks for it there finds it good."""
    settle(server)
    issued = server.issue()
    asked = request(issued.der, issued.chain[0])
    server.run(lambda: server.at.revoke(issued))
    server.at.clock.advance(timedelta(hours=1))
    settle(server)
    assert references(server, asked) == 1
    end = x509.load_der_x509_certificate(issued.der).not_valid_after_utc
    server.at.clock.advance(end - server.at.clock.now() + timedelta(minutes=1))
    server.run(server.at.status.responders.run_due)
    for _ in range(3):
        server.at.clock.advance(timedelta(hours=1))
        settle(server)
        found = read(post(server, asked))
        assert found.certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert list(found.single_extensions) == []


def test_a_list_that_certificates_name_goes_on_and_is_named(server: StatusServer) -> None:
    issued = server.issue()
    asked = request(issued.der, issued.chain[0])
    server.run(lambda: server.at.revoke(issued))
    server.at.clock.advance(timedelta(seconds=11))
    settle(server, points=(USERS,))
    assert references(server, asked) == 1
