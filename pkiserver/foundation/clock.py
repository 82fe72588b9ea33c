"""Time comes in as an argument: the one place that reads the machine's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol

CLOCKS_APART = timedelta(hours=1)
"""By so much two nodes' clocks may differ, or one be put back, before somebody is taken for a namesake made later."""


class Clock(Protocol):
    """A source of time."""

    def now(self) -> datetime:
        """The present as an aware UTC datetime."""

    def monotonic(self) -> float:
        """Seconds that never run backwards, from an arbitrary start."""


class SystemClock:
    """The machine's clock. It is asked several times for each answer, hence without a frame of Python between."""

    now = staticmethod(partial(datetime.now, UTC))
    monotonic = staticmethod(time.monotonic)
