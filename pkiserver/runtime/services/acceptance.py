"""Accepting connections on sockets that several processes share."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.tcp import Port

from pkiserver.runtime.sockets import BoundSocket

reactor: Any = _reactor


class SharedPort(Port):
    """A port that takes one connection at a time.

    Twisted takes up to a hundred waiting ones at once: of a crowd that comes in the same moment, and keeps its
    connections, the first worker that wakes would serve all and the others none.
    """

    @property
    def numberAccepts(self) -> int:  # noqa: N802 - Twisted's name
        """How many connections one look at the socket accepts."""
        return 1

    @numberAccepts.setter
    def numberAccepts(self, wanted: int) -> None:  # noqa: N802
        """Twisted adapts the number to the traffic; here it stays."""


def adopt(bound: BoundSocket, factory: IProtocolFactory) -> IListeningPort:
    """Begin to accept on a bound socket, whose descriptor is duplicated."""
    number, family = bound.socket.fileno(), bound.socket.family
    if family == socket.AF_UNIX:
        port: IListeningPort = reactor.adoptStreamPort(number, family, factory)
        return port
    # What adoptStreamPort does; it cannot be told which class of port to make.
    shared = SharedPort._fromListeningDescriptor(reactor, number, family, factory)  # type: ignore[no-untyped-call] # noqa: SLF001
    shared.startListening()
    return shared  # type: ignore[no-any-return]
