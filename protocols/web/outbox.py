"""Writing without holding more than one slice of an answer in the transport's buffer."""

from __future__ import annotations

from typing import Protocol

from pkiserver.foundation.clock import Clock
from protocols.web.limits import WebLimits

_NEVER = float("inf")


class _Sink(Protocol):
    def write(self, data: bytes, /) -> object:
        """Take octets to send."""


class Outbox:
    """The writing half of a connection. The transport says when it is full and when it has drained."""

    def __init__(self, sink: _Sink, limits: WebLimits, clock: Clock) -> None:
        self._sink = sink
        self._slice = limits.write_slice_bytes
        self._stall = limits.write_stall_seconds
        self._clock = clock
        self._rest: memoryview | None = None
        self._full = False
        self.blocked = False
        """Nothing more can be written now."""
        self.ending = False
        """The connection is to close as soon as nothing is blocked."""
        self.linger = False
        self.deadline = _NEVER
        """Monotonic seconds by which the client must have taken what was written."""

    def write(self, head: bytes, body: bytes) -> None:
        """Write one answer; only to be called when not blocked."""
        size = self._slice
        if len(body) <= size:
            self._sink.write(head + body)
            return
        self._rest = memoryview(body)[size:]
        self.blocked = True
        self._sink.write(head + body[:size])
        self._pump()

    def full(self) -> None:
        """The transport's buffer is full."""
        self._full = self.blocked = True
        self.deadline = self._clock.monotonic() + self._stall

    def drained(self) -> None:
        """The transport's buffer is empty."""
        self._full = False
        self.deadline = _NEVER
        self._pump()

    def end_later(self, *, linger: bool) -> None:
        """Remember that the connection is to close once everything is written."""
        self.ending = True
        self.linger = linger

    def forget(self) -> None:
        """The connection is gone."""
        self._rest = None
        self.ending = False
        self.deadline = _NEVER

    def _pump(self) -> None:
        while self._rest is not None and not self._full:
            piece = bytes(self._rest[: self._slice])
            rest = self._rest[self._slice :]
            self._rest = rest if len(rest) else None
            self._sink.write(piece)
        self.blocked = self._full or self._rest is not None
