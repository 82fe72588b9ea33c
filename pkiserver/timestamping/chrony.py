"""Time from chrony: what ``chronyc -c tracking`` says about this machine's clock."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.utils import getProcessOutputAndValue

from pkiserver.foundation.errors import Unavailable
from pkiserver.timestamping.clockwatch import Reading

_FIELDS = 14
_SYSTEM_TIME, _ROOT_DELAY, _ROOT_DISPERSION, _LEAP = 4, 10, 11, 13
_GRACE, _TIMED_OUT = 2.0, 124
"""Seconds for a process to end, and what timeout(1) says of one that it ended."""
_SYNCHRONISED = frozenset({"Normal", "Insert second", "Delete second"})


def read_tracking(text: str) -> Reading:
    """The tracking report, one line of comma-separated values.

    Raises:
        Unavailable: It is no such report, or says that the clock is not synchronised.
    """
    fields = text.strip().split(",")
    if len(fields) != _FIELDS:
        raise Unavailable("chronyc said something unexpected")
    if fields[_LEAP] not in _SYNCHRONISED:
        raise Unavailable(f"chrony says: {fields[_LEAP]}")
    try:
        offset, delay, dispersion = (float(fields[index]) for index in (_SYSTEM_TIME, _ROOT_DELAY, _ROOT_DISPERSION))
    except ValueError:
        raise Unavailable("chronyc said something unexpected") from None
    return Reading(offset, abs(delay) / 2 + abs(dispersion), fields[_LEAP] != "Normal")


class ChronySource:
    """Asks the chrony daemon of this machine."""

    name = "chrony"

    def __init__(self, command: str, *, timeout: float, reactor: Any) -> None:
        self._command = command
        self._timeout = timeout
        self._reactor = reactor

    async def read(self) -> Reading:
        """Ask it; raises :class:`Unavailable`."""
        running: Deferred[tuple[bytes, bytes, int]] = getProcessOutputAndValue(  # type: ignore[no-untyped-call]
            "/usr/bin/env",
            # one that hangs is ended, so that none are left behind
            ("timeout", "-k", "1", f"{self._timeout:g}", self._command, "-c", "tracking"),
            {**os.environ, "LC_ALL": "C"},
            reactor=self._reactor,
        )
        try:
            output, errors, code = await running.addTimeout(self._timeout + _GRACE, self._reactor)
        except DeferredTimeout:
            raise Unavailable(f"no answer within {self._timeout:g} s") from None
        if code == _TIMED_OUT:
            raise Unavailable(f"no answer within {self._timeout:g} s")
        if code:
            said = (output + errors).decode(errors="replace").strip().splitlines() or ["it says nothing"]
            raise Unavailable(f"{self._command} ended with {code}: {said[0][:200]}")
        return read_tracking(output.decode(errors="replace"))
