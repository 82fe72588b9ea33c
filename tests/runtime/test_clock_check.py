"""What readiness says of a clock that steps: told for a while, and then no more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest

from pkiserver.runtime.health import Health
from pkiserver.runtime.services.checks import STEP_TOLD, clock_check
from tests.support.clock import FakeClock

MINUTE = timedelta(minutes=1)


class Watched:
    """A clock and what is said of it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self._check = clock_check(cast("Any", None), self.clock, is_sqlite=True)

    async def told(self, after: timedelta = MINUTE) -> Health:
        self.clock.advance(after)
        [found] = await self._check.run()
        return found.health


@pytest.mark.parametrize(("step", "health"), [(5, Health.WARNING), (-5, Health.WARNING), (-3600, Health.FAILED)])
async def test_a_step_is_told_and_then_the_clock_counts_as_right(step: int, health: Health) -> None:
    watched = Watched()
    assert await watched.told(timedelta(days=30)) is Health.OK
    watched.clock.step(timedelta(seconds=step))
    assert [await watched.told() for _ in range(STEP_TOLD // MINUTE)] == [health] * 10
    assert [await watched.told() for _ in range(3)] == [Health.OK] * 3
    watched.clock.step(timedelta(seconds=step))
    assert await watched.told() is health, "the next one is told as the first"


async def test_a_clock_that_is_set_right_again_is_right_at_once() -> None:
    watched = Watched()
    watched.clock.step(timedelta(hours=1))
    assert await watched.told() is Health.FAILED
    watched.clock.step(-timedelta(hours=1))
    assert await watched.told() is Health.OK


async def test_another_step_begins_the_time_anew() -> None:
    watched = Watched()
    watched.clock.step(timedelta(seconds=10))
    assert await watched.told() is Health.WARNING
    assert await watched.told(STEP_TOLD - 2 * MINUTE) is Health.WARNING
    watched.clock.step(timedelta(seconds=10))
    assert await watched.told() is Health.WARNING
    assert await watched.told(STEP_TOLD - MINUTE) is Health.WARNING
    assert await watched.told(2 * MINUTE) is Health.OK
