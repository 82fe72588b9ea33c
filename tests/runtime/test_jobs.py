"""Jobs end when they are told to, whatever they make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from pkiserver.foundation.errors import Unavailable
from pkiserver.runtime.services.jobs import Job, Jobs


@pytest.mark.parametrize("instead", [None, ValueError("no answer"), Unavailable("no answer", retry_after=1)])
def test_a_run_that_swallows_its_cancellation_is_the_last(
    on_reactor: Callable[[Any], Any], instead: Exception | None
) -> None:
    runs: list[Deferred[None]] = []

    async def run() -> None:
        runs.append(Deferred())
        try:
            await runs[-1]
        except CancelledError:
            if instead is not None:
                raise instead from None

    async def begin_and_end() -> None:
        jobs = Jobs()
        jobs.begin([Job("deaf", 1000.0, run)])
        await jobs.end()

    on_reactor(begin_and_end)
    assert len(runs) == 1
