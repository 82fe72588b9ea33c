"""Durations as people write them: ``90d``, ``1h30m``, ``10y``.

A year is 365 days and a week 7: both are lengths, not calendar steps, so that a duration means the same on every day
it is used. There is no month, whose length nobody agrees on.
"""

from __future__ import annotations

import re
from datetime import timedelta
from itertools import pairwise

UNITS = {
    "y": timedelta(days=365),
    "w": timedelta(days=7),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "us": timedelta(microseconds=1),
}
ALLOWED = 'a duration such as "90d", "1h30m", "10y" (y = 365 days, w, d, h, m = minutes, s, ms, us)'

_PART = re.compile(r"([0-9]{1,18})(y|w|d|h|ms|us|m|s)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str) -> timedelta:
    """Read ``90d`` or ``1h30m``: whole numbers with units, the larger unit first, each at most once.

    Raises:
        ValueError: the text is no such duration, or too long for a :class:`~datetime.timedelta`.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration")
    parts = [(int(number), UNITS[unit]) for number, unit in _PART.findall(text)]
    if any(left <= right for (_, left), (_, right) in pairwise(parts)):
        raise ValueError(f"{text!r} is not a duration: the larger unit comes first, each at most once")
    try:
        return sum((number * unit for number, unit in parts), timedelta())
    except OverflowError:
        raise ValueError(f"{text!r} is too long") from None


def format_duration(value: timedelta) -> str:
    """The shortest text that :func:`parse_duration` reads back as ``value``.

    Years are used for whole years only: 366 days are ``366d``.

    Raises:
        ValueError: the duration is negative.
    """
    if value < timedelta():
        raise ValueError("a negative duration has no text")
    if value and not value % UNITS["y"]:
        return f"{value // UNITS['y']}y"
    parts = []
    for name in ("d", "h", "m", "s", "ms", "us"):
        number, value = divmod(value, UNITS[name])
        if number:
            parts.append(f"{number}{name}")
    return "".join(parts) or "0s"
