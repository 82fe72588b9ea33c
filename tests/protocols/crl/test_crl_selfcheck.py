"""The server reads itself back: all is well, or an alarm says what a client would see."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pkiserver.authority.crl import Cause
from pkiserver.authority.status.points import DeltaPolicy
from pkiserver.authority.status.policy import NoncePolicy, OcspSigning, ResponderIdentity
from pkiserver.authority.status.selfcheck import SelfCheck
from pkiserver.authority.status.turns import Turns
from pkiserver.store.schema.crls import crl, crl_scope
from tests.authority.crl_world import MINUTE, configure
from tests.authority.status_world import HOUR
from tests.protocols.ocsp.asking import change
from tests.protocols.status_server import StatusServer

DELTA = DeltaPolicy(interval=10 * MINUTE, validity=40 * MINUTE)


def checking(server: StatusServer, holder: str = "test") -> SelfCheck:
    at = server.at
    return SelfCheck(
        node="ca1",
        database=at.world.database,
        authorities=at.world.road.authorities,
        turns=Turns(at.world.database, at.clock, holder),
        clock=at.clock,
        interval=MINUTE,
    )


def prepared(server: StatusServer, **crl: Any) -> SelfCheck:
    """Authorities whose URLs lead to this very server."""

    async def prepare() -> None:
        for name in ("root", "issuing"):
            await configure(server.at, name, base_url=server.url, **crl)
        await server.at.certificate()
        await server.at.status.schedule.run_due()
        await server.at.status.directory.refresh()

    server.run(prepare)
    return checking(server)


def look(server: StatusServer, check: SelfCheck) -> dict[str, str | None]:
    """What is found, by the end of the subject."""
    server.at.clock.advance(MINUTE)
    found = server.run(check.run_due)
    return {one.subject.removeprefix(server.url): one.problem for one in found}


def test_every_list_and_answer_is_looked_at_and_found_well(server: StatusServer) -> None:
    check = prepared(server, delta=DELTA)
    expected = {
        "/crl/issuing-1.crl", "/crl/issuing-1/delta.crl", "/crl/root-1.crl", "/crl/root-1/delta.crl",
        "/ocsp issuing-1", "/ocsp root-1",
    }  # fmt: skip
    assert look(server, check) == dict.fromkeys(expected)
    assert look(server, check) == dict.fromkeys(expected), "also where nothing has changed"
    assert server.run(check.run_due) == (), "once a minute"
    issued = server.issue()
    server.run(lambda: server.at.revoke(issued))
    server.at.clock.advance(10 * MINUTE)
    server.run(server.at.status.schedule.run_due)
    assert look(server, check) == dict.fromkeys(expected)


@pytest.mark.parametrize(
    "ocsp",
    [
        {"nonce": NoncePolicy.REQUIRE},
        {"include_certificate": False},
        {"include_certificate": False, "identity": ResponderIdentity.NAME},
        {"include_certificate": False, "signing": OcspSigning.AUTHORITY},
    ],
)
def test_answers_are_asked_for_as_their_policy_wants(server: StatusServer, ocsp: dict[str, Any]) -> None:
    check = prepared(server)
    server.run(server.at.status.responders.run_due)
    change(server, **ocsp)
    found = look(server, check)
    assert {problem for subject, problem in found.items() if "ocsp" in subject} == {None}


def test_only_plain_http_is_read_back(server: StatusServer) -> None:
    check = prepared(server)
    elsewhere = "https://127.0.0.1:1/{path}.crl", "ldap://127.0.0.1:1/cn={name}?certificateRevocationList"
    server.run(lambda: configure(server.at, urls=("{base}/crl/{path}.crl", *elsewhere)))
    found = look(server, check)
    assert found["/crl/issuing-1.crl"] is None
    assert not any("127.0.0.1:1/" in subject for subject in found)


def test_a_list_that_ended_and_answers_that_are_missing(server: StatusServer) -> None:
    check = prepared(server)
    server.at.clock.advance(40 * HOUR)
    found = look(server, check)
    assert "it ended at" in (found["/crl/issuing-1.crl"] or "")
    server.run(server.at.status.schedule.run_due)
    assert look(server, check)["/crl/issuing-1.crl"] is None


def test_a_number_that_fell_back(server: StatusServer) -> None:
    check = prepared(server)
    at = server.at
    at.clock.advance(2 * HOUR)
    server.run(at.status.schedule.run_due)
    assert look(server, check)["/crl/issuing-1.crl"] is None
    server.run(lambda: at.world.database.write(lambda c: c.execute(crl.delete().where(crl.c.number > 1))))
    at.clock.advance(timedelta(seconds=2))
    assert "fell back from 2 to 1" in (look(server, check)["/crl/issuing-1.crl"] or "")


def test_a_list_that_this_database_does_not_know(server: StatusServer) -> None:
    """As after an older database was restored, while a cache still has what was published before."""
    check = prepared(server)
    at = server.at

    async def lose() -> None:
        issued = await at.status.crls.issue(at.issuing, at.issuing.current, actor="t", cause=Cause.DEMAND)
        published = await at.status.publications.crl("issuing-1")

        async def always(*_: object) -> object:
            return published

        at.status.publications.crl, at.status.publications.crl_now = always, at.status.publications.crl  # type: ignore[attr-defined,method-assign]
        await at.world.database.write(lambda c: c.execute(crl.delete().where(crl.c.number == issued.number)))
        await at.world.database.write(lambda c: c.execute(crl_scope.update().values(last_number=1)))

    server.run(lose)
    problem = look(server, check)["/crl/issuing-1.crl"] or ""
    assert "number 2 is served, but here 1 is the last" in problem
    assert "crl advance issuing --to 2" in problem

    async def mend() -> None:
        await at.status.crls.advance(at.issuing, 2, actor="t")
        at.status.publications.crl = at.status.publications.crl_now  # type: ignore[attr-defined,method-assign]
        await at.status.schedule.issue_now(at.issuing, at.issuing.current, actor="t")

    server.run(mend)
    at.clock.advance(timedelta(seconds=2))
    assert look(server, check)["/crl/issuing-1.crl"] is None


def test_a_clock_that_is_set_back_does_not_stop_the_check(server: StatusServer) -> None:
    server.at.clock.advance(3 * HOUR)  # the CA's certificate has begun long ago
    server.run(server.at.status.schedule.run_due)
    check = prepared(server)
    assert look(server, check)["/crl/issuing-1.crl"] is None
    server.at.clock.step(-2 * HOUR)
    found = look(server, check)
    assert "from the future" in (found["/crl/issuing-1.crl"] or "")
    server.run(server.at.status.schedule.run_due)
    server.at.clock.advance(timedelta(seconds=2))
    assert look(server, check)["/crl/issuing-1.crl"] is None


def test_a_newer_list_that_is_not_served(server: StatusServer) -> None:
    check = prepared(server)
    at = server.at

    async def stale() -> None:
        served = await at.status.publications.crl("issuing-1")
        await at.status.crls.issue(at.issuing, at.issuing.current, actor="t", cause=Cause.DEMAND)

        async def always(*_: object) -> object:
            return served

        at.status.publications.crl = always  # type: ignore[method-assign]  # a cache on the way that never asks again

    server.run(stale)
    at.clock.advance(10 * MINUTE)
    assert "but 2 was issued" in (look(server, check)["/crl/issuing-1.crl"] or "")


def test_a_server_that_cannot_be_reached_and_one_process_looks(server: StatusServer) -> None:
    prepared(server)
    server.run(lambda: configure(server.at, base_url="http://127.0.0.1:1"))
    found = look(server, checking(server))
    assert "cannot be read" in (found["http://127.0.0.1:1/crl/issuing-1.crl"] or "")
    assert "cannot be read" in (found["http://127.0.0.1:1/ocsp issuing-1"] or "")
    assert found["/crl/root-1.crl"] is None
    assert server.run(checking(server, "another").run_due) == ()
    assert len(server.run(checking(server, "another").findings)) == len(found), "but all can tell"
