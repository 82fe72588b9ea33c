"""Accepting connections on sockets that several processes share."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.tcp import Port, Server
from twisted.internet.unix import Port as UnixPort
from twisted.logger import Logger

from pkiserver.runtime.descriptors import RESERVE, few_left
from pkiserver.runtime.sockets import BACKLOG, BoundSocket

reactor: Any = _reactor
_log = Logger(namespace="pkiserver.listener")
_TOLD_SECONDS = 60
"""How often it is told at most that connections are turned away for want of descriptors."""


class StraightServer(Server):
    """An accepted connection that offers the kernel at once what is written.

    Twisted would ask to be told when the connection can be written, which it nearly always can, be told in the next
    turn, write, and ask not to be told any more: two system calls and a turn for each answer over TLS.
    """

    def write(self, data: bytes) -> None:
        """Send; what the kernel does not take goes Twisted's way, and everything behind it."""
        if not (self.TLS or self.disconnecting or self.producerPaused or self._waiting()):
            try:
                sent = self.socket.send(data)
            except OSError:  # EAGAIN among others; a broken connection is found out when it is tried again
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
        super().write(data)  # type: ignore[no-untyped-call] # Twisted's

    def _waiting(self) -> bool:
        """Whether something written before is not sent yet, or nothing can be sent at all."""
        return bool(
            not self.connected or self._writeDisconnected or self._tempDataBuffer or self.offset < len(self.dataBuffer)
        )


class SharedPort(Port):
    """A port that takes one connection at a time.

    Twisted takes up to a hundred waiting ones at once: of a crowd that comes in the same moment, and keeps its
    connections, the first worker that wakes would serve all and the others none.

    Where few descriptors are left, connections are closed as soon as they are taken.
    """

    transport = StraightServer
    listener = ""
    reserve = RESERVE
    _turned_away = 0
    _told: float | None = None

    def doRead(self) -> None:  # noqa: N802 - Twisted's name
        """Take a waiting connection."""
        if few_left(self.socket.fileno(), reserve=self.reserve):
            self._turn_away()
        else:
            super().doRead()  # type: ignore[no-untyped-call]

    def _turn_away(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self.socket.accept()
            connection.close()
            self._turned_away += 1
        now = reactor.seconds()
        if self._turned_away and (self._told is None or now - self._told >= _TOLD_SECONDS):
            _log.warn(
                "{listener}: {count} connections turned away: hardly a file descriptor is left",
                listener=self.listener,
                count=self._turned_away,
            )
            self._told, self._turned_away = now, 0

    @property
    def numberAccepts(self) -> int:  # noqa: N802 - Twisted's name
        """How many connections one look at the socket accepts."""
        return 1

    @numberAccepts.setter
    def numberAccepts(self, wanted: int) -> None:  # noqa: N802
        """Twisted adapts the number to the traffic; here it stays."""


class SharedUnixPort(UnixPort):
    """A port whose socket and path others have as well: they are the business of whoever bound them.

    Twisted would let everybody connect and, in the first process that ends, shut the socket and remove the path.
    """

    _shouldShutdown = False  # noqa: N815 - Twisted's name

    def startListening(self) -> None:  # noqa: N802 - Twisted's name
        """Accept from now on."""
        self._bindPath = b"\0" + self._bindPath  # as with names that are no files, Twisted leaves the path alone then
        self.backlog = BACKLOG
        super().startListening()  # type: ignore[no-untyped-call]


PRIVATE = frozenset({"management", "api"})
"""Listeners of those who look after the server: the public ones leave some descriptors to them."""


def adopt(bound: BoundSocket, factory: IProtocolFactory) -> IListeningPort:
    """Begin to accept on a bound socket, whose descriptor is duplicated."""
    number, family = bound.socket.fileno(), bound.socket.family
    if family == socket.AF_UNIX:
        local = SharedUnixPort._fromListeningDescriptor(reactor, number, factory)  # type: ignore[no-untyped-call] # noqa: SLF001
        local.startListening()
        return local  # type: ignore[no-any-return]
    # What adoptStreamPort does; it cannot be told which class of port to make.
    shared = SharedPort._fromListeningDescriptor(reactor, number, family, factory)  # type: ignore[no-untyped-call] # noqa: SLF001
    shared.listener = bound.listener
    if bound.listener in PRIVATE:
        shared.reserve = RESERVE // 2
    shared.startListening()
    return shared  # type: ignore[no-any-return]
