"""Entries of a list as sorted records of 32 octets, in parts of a megabyte: small in memory and quick to search."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import attrs

RECORD = 32
PART = 1 << 20
"""Octets of a part: 32,768 records."""
SERIAL_OCTETS = 20
_TIME_OCTETS = 5
NOTHING = b"\0" * (RECORD - SERIAL_OCTETS)
"""The rest of a record that only says that a serial number is on the list."""


@attrs.frozen
class Listed:
    """What a list says of a serial number; times in seconds since 1970."""

    revoked_at: int
    reason: int
    invalidity_date: int | None


def serial_key(serial: int) -> bytes | None:
    """A serial number as records begin; None for one that no list can have (negative, or beyond 20 octets)."""
    if serial < 0 or serial.bit_length() > SERIAL_OCTETS * 8:
        return None
    return serial.to_bytes(SERIAL_OCTETS, "big")


def time_octets(moment: int) -> bytes:
    """Seconds since 1970 as records have them; raises :class:`OverflowError` for a time before."""
    return moment.to_bytes(_TIME_OCTETS, "big")


def details(reason: int, invalidity_date: int | None) -> bytes:
    """What follows the revocation date in a record; raises as :func:`time_octets`."""
    date = b"\0" * (_TIME_OCTETS + 1) if invalidity_date is None else time_octets(invalidity_date) + b"\1"
    return bytes((reason,)) + date


def parts_of(records: list[bytes]) -> Iterable[bytes]:
    """Sorted records in parts."""
    step = PART // RECORD
    return (b"".join(records[at : at + step]) for at in range(0, len(records), step))


class Index:
    """Records in parts, as :func:`parts_of` made them."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = tuple(parts)
        self._firsts = [part[:SERIAL_OCTETS] for part in self._parts]

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts) // RECORD

    def find(self, serial: int) -> Listed | None:
        """What the list says of a serial number; None where it says nothing."""
        key = serial_key(serial)
        at = -1 if key is None else bisect_right(self._firsts, key) - 1
        if at < 0 or key is None:
            return None
        part = self._parts[at]
        low, high = 0, len(part) // RECORD
        while low < high:
            middle = (low + high) // 2
            start = middle * RECORD
            if part[start : start + SERIAL_OCTETS] < key:
                low = middle + 1
            else:
                high = middle
        start = low * RECORD
        if part[start : start + SERIAL_OCTETS] != key:
            return None
        return _listed(part[start + SERIAL_OCTETS : start + RECORD])


def _listed(rest: bytes) -> Listed:
    date = int.from_bytes(rest[_TIME_OCTETS + 1 : 2 * _TIME_OCTETS + 1], "big") if rest[-1] else None
    return Listed(int.from_bytes(rest[:_TIME_OCTETS], "big"), rest[_TIME_OCTETS], date)
