"""Settings of lists that are changed while lists are out: nobody is left with one that has ended."""

from __future__ import annotations

from datetime import timedelta

from pkiserver.authority.status.points import DeltaPolicy
from pkiserver.runtime.health import Health
from pkiserver.runtime.services.checks import crl_check
from pkiserver.store.authority.crls import CrlKind
from tests.authority.crl_world import MINUTE, checked, configure, number, published
from tests.authority.status_world import HOUR, StatusWorld

DAY = timedelta(days=1)


async def test_lists_that_are_to_come_more_seldom_come_before_those_that_are_out_end(at: StatusWorld) -> None:
    await configure(at, interval=HOUR, validity=3 * HOUR, delta=DeltaPolicy(interval=10 * MINUTE, validity=30 * MINUTE))
    await at.status.schedule.run_due()
    await configure(at, interval=7 * DAY, validity=10 * DAY, delta=DeltaPolicy(interval=6 * HOUR, validity=12 * HOUR))
    for _ in range(60):
        at.clock.advance(10 * MINUTE)
        await at.status.schedule.run_due()
        for kind in CrlKind:
            crl = checked(at, await published(at, "issuing-1", kind))
            assert crl.next_update_utc is not None
            assert crl.next_update_utc > at.clock.now(), kind
    assert number(checked(at, await published(at, "issuing-1"))) == 2, "once, and then at the new pace"


async def test_lists_that_were_switched_off_leave_the_node_ready(at: StatusWorld) -> None:
    """They end, which is told; that others would have ended unnoticed is another matter."""
    check = crl_check(at.world.database, at.world.road.authorities, at.clock)

    async def told() -> dict[str, Health]:
        return {one.name: one.health for one in await check.run()}

    await at.status.schedule.run_due()
    assert await told() == {"crl:issuing": Health.OK, "crl:root": Health.OK}
    await configure(at, enabled=False)
    at.clock.advance(DAY)
    assert await told() == {"crl:issuing": Health.WARNING, "crl:root": Health.FAILED}
    await at.status.schedule.run_due()
    assert await told() == {"crl:issuing": Health.WARNING, "crl:root": Health.OK}
    await configure(at)
    assert await told() == {"crl:issuing": Health.FAILED, "crl:root": Health.OK}
    await at.status.schedule.run_due()
    assert await told() == {"crl:issuing": Health.OK, "crl:root": Health.OK}
