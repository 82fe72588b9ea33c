"""Whether the clock may be believed: sources are asked, the verdict expires, and steps between two polls are seen.

The verdict bounds the clock's error. What is stamped later adds to that bound what the oscillator may have drifted
since, and by how much the clock has moved against its steady run; past a unit's accuracy there is no time to be told.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.timestamping.timesettings import TimeSettings

DRIFT = 15e-6
"""How far an oscillator may be off its rate: seconds a second (RFC 5905, PHI)."""
_DAY = timedelta(days=1)


class Trouble(StrEnum):
    """Why there is no time; also a label of metrics."""

    NO_SOURCE = "no-source"
    UNKNOWN = "not-asked-yet"
    UNSYNCHRONISED = "unsynchronised"
    INACCURATE = "outside-accuracy"
    EXPIRED = "verdict-expired"
    STEPPED = "clock-stepped"
    LEAP = "leap-second"
    OTHER_HOLDER = "another-process"


class TimeNotAvailable(Unavailable):
    """No time can be told now."""

    def __init__(self, trouble: Trouble, text: str) -> None:
        super().__init__(text, retry_after=10)
        self.trouble = trouble


@attrs.frozen
class Reading:
    """What a source says: by how much the true time is ahead of the clock, how sure that is (seconds), and more."""

    offset: float
    uncertainty: float
    leap: bool = False
    """A leap second is announced."""

    @property
    def error(self) -> float:
        """A bound of the clock's error, in seconds."""
        return abs(self.offset) + self.uncertainty


class TimeSource(Protocol):
    """Something that knows the time."""

    @property
    def name(self) -> str:
        """For logs."""

    async def read(self) -> Reading:
        """Ask it; raises :class:`Unavailable` when it does not know, or does not answer in time."""


class SystemSource:
    """Believes the clock."""

    name = "system"

    async def read(self) -> Reading:
        """No error, as far as it knows."""
        return Reading(0.0, 0.0)


@attrs.frozen
class Verdict:
    """The outcome of a poll: ``trouble`` or an error bound, with the moment that it is about on both clocks."""

    wall: datetime
    monotonic: float
    offset: float = 0.0
    error: float = 0.0
    leap: bool = False
    trouble: Trouble | None = None
    text: str = ""


class ClockWatch:
    """Asks the sources and says what time it is, or why it does not know."""

    def __init__(self, sources: Sequence[TimeSource], settings: TimeSettings, clock: Clock) -> None:
        self._sources = tuple(sources)
        self._settings = settings
        self._clock = clock
        self._step = settings.step.total_seconds()
        self._validity = settings.verdict_validity.total_seconds()
        trouble = Trouble.UNKNOWN if sources else Trouble.NO_SOURCE
        text = "the time sources have not been asked yet" if sources else "no time source is configured"
        self._verdict = Verdict(clock.now(), clock.monotonic(), trouble=trouble, text=text)
        self._due = float("-inf")

    @property
    def verdict(self) -> Verdict:
        """The last verdict."""
        return self._verdict

    @property
    def is_trusting(self) -> bool:
        """Whether the clock is believed without asking anybody."""
        return any(isinstance(source, SystemSource) for source in self._sources)

    def stamp(self, accuracy: float) -> datetime:
        """The present, known to be right within ``accuracy`` seconds; cheap, reads both clocks once.

        Raises:
            TimeNotAvailable: it is not known that well.
        """
        now, monotonic, verdict = self._clock.now(), self._clock.monotonic(), self._verdict
        if verdict.trouble is not None:
            raise TimeNotAvailable(verdict.trouble, verdict.text)
        age = monotonic - verdict.monotonic
        if age > self._validity:
            raise TimeNotAvailable(Trouble.EXPIRED, f"the time was last checked {age:.0f} s ago")
        moved = abs((now - verdict.wall).total_seconds() - age)
        if moved > self._step:
            self._suspect(f"the clock stepped by {moved:.3f} s")
        error = verdict.error + moved + age * DRIFT
        if error > accuracy:
            text = f"the clock may be wrong by {error:.6f} s, more than the {accuracy:g} s that are promised"
            raise TimeNotAvailable(Trouble.INACCURATE, text)
        if verdict.leap and self._near_leap(now):
            raise TimeNotAvailable(Trouble.LEAP, "a leap second is announced")
        return now

    def trouble(self, accuracy: float) -> TimeNotAvailable | None:
        """What :meth:`stamp` would raise now."""
        try:
            self.stamp(accuracy)
        except TimeNotAvailable as error:
            return error
        return None

    def _suspect(self, text: str) -> None:
        """Believe nothing before the sources have been asked again."""
        self._verdict = attrs.evolve(self._verdict, trouble=Trouble.STEPPED, text=text)
        self._due = float("-inf")
        raise TimeNotAvailable(Trouble.STEPPED, text)

    def _near_leap(self, now: datetime) -> bool:
        window = self._settings.leap_window
        if window is None:
            return True
        # A leap second ends a day of UTC.
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return min(now - midnight, midnight + _DAY - now) <= window

    async def run_due(self) -> None:
        """Ask the sources when it is time, or at once when the clock has moved. Never raises."""
        if self._verdict.trouble is None:
            self.trouble(float("inf"))  # sees steps also while nobody asks for a time-stamp
        if self._sources and self._clock.monotonic() >= self._due:
            await self.poll()

    async def poll(self) -> None:
        """Ask every source now and keep the verdict."""
        wall, monotonic = self._clock.now(), self._clock.monotonic()
        self._due = monotonic + self._settings.poll.total_seconds()
        # All at once: one that is slow does not delay the others.
        pending = [Deferred.fromCoroutine(_ask(source)) for source in self._sources]
        answers = [await one for one in pending]
        failures = [one for one in answers if isinstance(one, str)]
        if not failures:
            readings = [one for one in answers if isinstance(one, Reading)]
            worst = max(readings, key=lambda one: one.error)
            leap = any(one.leap for one in readings)
            after, elapsed = self._clock.now(), self._clock.monotonic() - monotonic
            moved = abs((after - wall).total_seconds() - elapsed)
            if moved <= self._step:
                self._verdict = Verdict(wall, monotonic, worst.offset, worst.error + moved, leap)
                return
            failures.append("the clock stepped while it was checked")
        if self._verdict.trouble is None and self._clock.monotonic() - self._verdict.monotonic <= self._validity:
            return  # the last good verdict counts until it expires
        text = "; ".join(failures)
        self._verdict = Verdict(wall, monotonic, trouble=Trouble.UNSYNCHRONISED, text=text)


async def _ask(source: TimeSource) -> Reading | str:
    try:
        reading = await source.read()
    except Unavailable as error:
        return f"{source.name}: {error.text}"
    return reading if math.isfinite(reading.error) else f"{source.name}: gave no number"
