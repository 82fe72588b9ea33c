"""Answers name the complete list of a key only while that list is there, in time, and goes on being issued."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import attrs

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


def test_a_list_that_certificates_name_goes_on_and_is_named(server: StatusServer) -> None:
    issued = server.issue()
    asked = request(issued.der, issued.chain[0])
    server.run(lambda: server.at.revoke(issued))
    server.at.clock.advance(timedelta(seconds=11))
    settle(server, points=(USERS,))
    assert references(server, asked) == 1
