"""Writing without holding more than one slice of an answer in the transport's buffer."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.tcp import Connection

from pkiserver.foundation.clock import Clock
from protocols.web.limits import WebLimits
from protocols.web.turn import Turn

_NEVER = float("inf")
_COPIED = 16 * 1024
"""Octets of a long answer that go out together with its head; shorter answers wait for the end of the turn."""
_AT_ONCE = 512 * 1024
"""Octets of a long answer offered to the kernel at a time: it takes what it has room for, and no copy is made here."""
_TURNS = 4
"""Hand-overs to the kernel for one answer before the reactor looks at other connections again."""


class _Sink(Protocol):
    def write(self, data: bytes, /) -> object:
        """Take octets to send."""


class Outbox:
    """The writing half of a connection. The transport says when it is full and when it has drained."""

    def __init__(self, sink: _Sink, limits: WebLimits, clock: Clock, turn: Turn) -> None:
        self._sink = sink
        self._turn = turn
        # A TLS wrapper hands unknown names on to the socket below it, therefore the type is asked, not the attribute.
        self._socket = sink if isinstance(sink, Connection) else None
        self._direct = self._socket
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

    def interim(self, data: bytes) -> None:
        """Write an interim answer (100 Continue)."""
        self._turn.flush()
        self.send_now(data)

    def write(self, head: bytes, body: bytes) -> None:
        """Write one answer; only to be called when not blocked."""
        if self._direct is not None and len(body) <= _COPIED:
            self._turn.add(self, head + body)
            return
        self._turn.flush()
        if len(body) <= self._slice:
            self.send_now(head + body)
            return
        self._rest = memoryview(body)[_COPIED:]
        self.blocked = True
        self.send_now(head + body[:_COPIED])
        self._pump()

    def flush(self) -> None:
        """Hand over what waits for the end of the turn; to be called before the connection ends."""
        self._turn.flush()

    def full(self) -> None:
        """The transport's buffer is full."""
        self._full = self.blocked = True
        self.deadline = self._clock.monotonic() + self._stall

    def drained(self) -> None:
        """The transport's buffer is empty."""
        self._full = False
        self._direct = self._socket
        self.deadline = _NEVER
        self._pump()

    def end_later(self, *, linger: bool) -> None:
        """Remember that the connection is to close once everything is written."""
        self.ending = True
        self.linger = linger

    def forget(self) -> None:
        """The connection is gone."""
        self._rest = self._direct = self._socket = None
        self.ending = False
        self.deadline = _NEVER

    def send_now(self, data: bytes) -> None:
        """Give octets to the kernel, and to the transport what the kernel does not take."""
        sent = self._hand_over(data)
        if sent < len(data):
            self._sink.write(data[sent:] if sent else data)

    def _hand_over(self, data: bytes | memoryview) -> int:
        """Give octets to the kernel at once: saves a turn of the reactor and two system calls. Says how many it took.

        When it does not take all, the transport gets the rest, and with it all that follows until it has drained;
        a broken connection is for the transport to find out, too.
        """
        if self._direct is None:
            return 0
        try:
            taken = self._direct.socket.send(data)
        except OSError:  # EAGAIN among others
            taken = 0
        if taken < len(data):
            self._direct = None
        return taken

    def _pump(self) -> None:
        turns = _TURNS
        while (rest := self._rest) is not None and not self._full:
            if self._socket is None:
                piece = rest[: self._slice]
                self._sink.write(bytes(piece))
                sent = len(piece)
            else:
                piece = rest[:_AT_ONCE]
                sent = self._hand_over(piece) if turns else 0
                turns -= 1
                if sent < len(piece):
                    self._when_drained(self._socket)
            self._rest = rest[sent:] if sent < len(rest) else None
        self.blocked = self._full or self._rest is not None

    def _when_drained(self, socket: Connection) -> None:
        """Have the transport call :meth:`drained` once the kernel takes octets again; it gets no copy of any."""
        self.full()
        socket.producerPaused = True
        socket.startWriting()  # type: ignore[no-untyped-call]
