"""The transport as this room uses it: plain TCP or TLS over TCP, both of Twisted."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IProducer
from twisted.protocols.tls import TLSMemoryBIOProtocol


class Wire(Protocol):
    """What Twisted's TCP and TLS transports have in common, whose interfaces are spread over several declarations."""

    def write(self, data: bytes, /) -> object:
        """Take octets to send."""

    def getPeer(self) -> IAddress:  # noqa: N802
        """The other end's address."""

    def loseConnection(self) -> object:  # noqa: N802
        """Close once everything is written and no producer is registered."""

    def abortConnection(self) -> object:  # noqa: N802
        """Close now."""

    def registerProducer(self, producer: IProducer, streaming: bool, /) -> object:  # noqa: N802
        """Tell ``producer`` when the buffer is full and when it has drained."""

    def unregisterProducer(self) -> object:  # noqa: N802
        """Undo that."""

    def setTcpNoDelay(self, enabled: bool, /) -> object:  # noqa: N802
        """Only where the peer has an IP address."""

    def pauseProducing(self) -> object:  # noqa: N802
        """Stop reading."""

    def resumeProducing(self) -> object:  # noqa: N802
        """Read again."""


def is_tls(wire: Wire) -> bool:
    """Whether there is TLS on the connection."""
    return hasattr(wire, "negotiatedProtocol")


def close_below(wire: Wire) -> None:
    """Close the TCP connection under TLS once everything is written, whatever the client says to our close_notify."""
    if isinstance(wire, TLSMemoryBIOProtocol) and wire.transport is not None:
        wire.transport.loseConnection()


def send_at_once(wire: Wire) -> None:
    """Have the kernel send what it is given without waiting for more (TCP_NODELAY).

    Answers are handed over whole, or in long slices: Nagle's algorithm would keep the end of each slice back until the
    client has acknowledged the one before, and make the kernel handle many small pieces of a long answer.
    """
    if isinstance(wire.getPeer(), IPv4Address | IPv6Address):
        wire.setTcpNoDelay(True)
