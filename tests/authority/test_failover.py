"""A database takes over that lacks the last transactions: nothing that was remembered of them is believed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from twisted.internet.threads import deferToThread

from pkiserver.audit.verify import verify
from pkiserver.authority.crl import Cause
from pkiserver.authority.requests import IssuedCertificate
from pkiserver.store import audit as rows
from pkiserver.store.certificates import CertificateState
from tests.authority.crl_world import entries, number
from tests.authority.status_world import StatusWorld
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgresql


@pytest.fixture
def status_url(postgres_url: str) -> str:
    return postgres_url


async def state(at: StatusWorld, issued: IssuedCertificate) -> CertificateState | None:
    [found] = await at.status.directory.cache.statuses(at.issuing.issuer_id, [issued.serial])
    return None if found is None else found.state


async def test_a_revocation_that_takes_the_number_of_a_lost_one_is_seen(
    at: StatusWorld, postgres_server: PostgresServer
) -> None:
    lost, kept = await at.certificate("lost"), await at.certificate("kept")
    copy = await deferToThread(postgres_server.copy, at.world.url)
    cache = at.status.directory.cache
    await cache.poll()
    await at.revoke(lost)
    assert await state(at, lost) is CertificateState.REVOKED
    assert await state(at, kept) is CertificateState.ISSUED
    before = at.status.directory.state_now()

    await deferToThread(postgres_server.fail_over, at.world.url, copy)
    await cache.poll()
    assert await state(at, lost) is CertificateState.ISSUED, "what the database says now"
    await at.revoke(kept)
    assert await state(at, kept) is CertificateState.REVOKED
    assert at.status.directory.state_now() != before, "answers that were kept are made anew"


async def test_lists_follow_the_database_that_took_over_and_repeat_no_number(
    at: StatusWorld, postgres_server: PostgresServer
) -> None:
    lost, kept = await at.certificate("lost"), await at.certificate("kept")
    await at.status.schedule.run_due()
    copy = await deferToThread(postgres_server.copy, at.world.url)
    await at.status.directory.cache.poll()
    await at.revoke(lost)
    at.clock.advance(timedelta(minutes=1))
    await at.status.schedule.run_due()
    await at.status.schedule.run_due()
    gone = await at.crl()
    assert entries(gone).keys() == {lost.serial}

    await deferToThread(postgres_server.fail_over, at.world.url, copy)
    await at.status.directory.cache.poll()
    await at.revoke(kept)
    at.clock.advance(timedelta(minutes=1))
    (issued,) = await at.status.schedule.run_due()
    served = await at.crl()
    assert entries(served).keys() == {kept.serial}
    assert number(served) == issued.number
    assert number(served) > number(gone), "no two lists of one number"


async def test_the_list_that_is_served_is_the_databases_also_where_a_number_comes_twice(
    at: StatusWorld, postgres_server: PostgresServer
) -> None:
    async def issue() -> int:
        at.clock.advance(timedelta(minutes=1))
        return (await at.status.crls.issue(at.issuing, at.issuing.current, actor="x", cause=Cause.DEMAND)).number

    copy = await deferToThread(postgres_server.copy, at.world.url)
    await at.revoke(await at.certificate("lost"))
    gone = await issue()
    assert number(await at.crl()) == gone
    await deferToThread(postgres_server.fail_over, at.world.url, copy)
    assert await issue() == gone, "who never looked at the lists knows of no number"
    at.clock.advance(timedelta(seconds=1))
    assert entries(await at.crl()) == {}


async def test_issuing_goes_on_and_the_audit_log_tells_what_was_lost(
    at: StatusWorld, postgres_server: PostgresServer
) -> None:
    await at.certificate("kept")
    copy = await deferToThread(postgres_server.copy, at.world.url)
    await at.certificate("lost")
    await deferToThread(postgres_server.fail_over, at.world.url, copy)

    await at.certificate("afterwards")
    report = await at.world.database.read(verify)
    assert report.problems == ()
    assert report.chains == 2
    first = await at.world.database.read(lambda c: next(rows.events(c, 2)))
    assert (first.kind, first.object, first.outcome) == ("recovery", "audit chain 1", "failed")
    assert "the database has it up to event" in first.details
