"""Times in the database: whole microseconds since 1970-01-01T00:00:00Z, in a 64-bit integer.

An integer sorts and compares alike on every engine, knows no time zone, and reaches past the year 9999 that RFC 5280
section 4.1.2.5 gives to certificates without a well-defined end.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """The stored form of an aware datetime; raises :class:`ValueError` for a naive one."""
    if moment.tzinfo is None:
        raise ValueError("a time in the database is an aware datetime")
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(stored: int) -> datetime:
    """The aware UTC datetime behind a stored integer."""
    return _EPOCH + timedelta(microseconds=stored)


def optional_micros(moment: datetime | None) -> int | None:
    """:func:`to_micros` for a time that may be missing."""
    return None if moment is None else to_micros(moment)


def optional_time(stored: int | None) -> datetime | None:
    """:func:`from_micros` for a time that may be missing."""
    return None if stored is None else from_micros(stored)
