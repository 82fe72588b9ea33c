"""Which open certificates recovery settles, however many there are."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Connection

from pkiserver.audit import AuditLog
from pkiserver.authority import recover
from pkiserver.authority.recover import LEASE, Recovery, Settled, lease_name
from pkiserver.store import certificates, leases
from pkiserver.store.migrate import migrate
from tests.support.clock import FakeClock
from tests.support.stored import NOW, new_intent, new_serial, opened

MINE = "test/0/1"


async def test_the_dead_are_settled_however_much_the_living_have_under_way(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "_AT_ONCE", 2)
    clock = FakeClock(NOW)
    migrate(url)
    async with opened(url) as database:
        audit = AuditLog(database, node="test", worker="0", clock=clock)
        recovery = Recovery(database=database, audit=audit, clock=clock, holder=MINE)

        def put(connection: Connection) -> None:
            leases.acquire(connection, lease_name("living"), "living", now=NOW, lasting=2 * LEASE)
            for holder in ("living", "living", "dead", "living", "living", "dead", "dead", "living", MINE):
                certificates.insert_prepared(connection, new_intent(holder=holder))

        await database.write(put)
        assert await recovery.settle() == Settled(burnt=3)
        clock.advance(3 * LEASE)
        assert await recovery.settle() == Settled(burnt=5)


async def test_what_was_left_is_settled_though_it_is_seen_later_but_not_for_ever(url: str) -> None:
    clock = FakeClock(NOW)
    serials = (new_serial(), new_serial())
    migrate(url)
    async with opened(url) as database:
        audit = AuditLog(database, node="test", worker="0", clock=clock)
        recovery = Recovery(database=database, audit=audit, clock=clock, holder=MINE)

        async def settled_late(serial: int, after: timedelta) -> Settled:
            recovery.take_over(serial)
            assert await recovery.settle() == Settled()
            clock.advance(after)
            assert await recovery.settle() == Settled()
            await database.write(lambda c: certificates.insert_prepared(c, new_intent(serial=serial, holder=MINE)))
            return await recovery.settle()

        assert await settled_late(serials[0], timedelta(hours=1)) == Settled(burnt=1)
        assert await settled_late(serials[1], timedelta(days=1)) == Settled(), "it is forgotten"
