"""Answers made within one turn of the reactor, handed to the kernel together at its end.

A client with many connections sleeps while its answers are made. Were each sent when it is ready, the kernel would wake
the client for each one, which costs more than the sending; and the reactor's own code and data would have to come back
into the processor's caches each time.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IReactorTime

MOST = 32
"""Answers that wait at most: with many ready connections the first need not wait for the last."""


class _Sender(Protocol):
    def send_now(self, data: bytes, /) -> None:
        """Give octets to the kernel."""


class Turn:
    """What is to be sent at the end of the present turn, in order."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._call_later = reactor.callLater
        self._waiting: list[tuple[_Sender, bytes]] = []

    def add(self, sender: _Sender, data: bytes) -> None:
        """Send these octets before the reactor looks at its connections again."""
        self._waiting.append((sender, data))
        if len(self._waiting) == 1:
            self._call_later(0, self.flush)
        elif len(self._waiting) >= MOST:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        waiting, self._waiting = self._waiting, []
        for sender, data in waiting:
            sender.send_now(data)
