"""ldaptor's LDAP client within bounds: whole messages only, none too large, whatever ldaptor makes of a broken one."""

from __future__ import annotations

from ldaptor.protocols.ldap.ldapclient import LDAPClient
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

MAX_MESSAGE = 8 * 1024 * 1024
"""Octets of one message from a server."""
AT_ONCE = 8
"""Messages that are decoded before others have their turn: ldaptor takes a quarter of a millisecond for each."""


@implementer(IHandshakeListener)
class Client(LDAPClient):  # type: ignore[misc]  # ldaptor is not typed
    """ldaptor's client, with bounds, and with a word about how the TLS handshake went."""

    def __init__(self) -> None:
        super().__init__()
        self.shaken: Deferred[None] = Deferred()
        self._pending = bytearray()
        self._waits = False

    def handshakeCompleted(self) -> None:  # noqa: N802
        """Twisted's interface."""
        if not self.shaken.called:
            self.shaken.callback(None)

    def dataReceived(self, recd: bytes) -> None:  # noqa: N802
        """Take whole messages only, none larger than the limit."""
        self._pending += recd
        if not self._waits:
            self._take(AT_ONCE)

    def _take(self, most: int | None) -> None:
        """Have ldaptor take messages: so many now (None: all), the rest in turn with whatever else there is to do."""
        try:
            taken = 0
            while (size := _message_size(self._pending)) is not None and len(self._pending) >= size:
                if taken == most:
                    self._wait()
                    return
                message = bytes(self._pending[:size])
                del self._pending[:size]
                super().dataReceived(message)
                taken += 1
        except Exception:  # noqa: BLE001 - whatever ldaptor makes of a broken answer (KeyError, RecursionError, ...)
            self._pending.clear()
            self.transport.abortConnection()

    def _wait(self) -> None:
        self._waits = True
        self.transport.pauseProducing()
        IReactorTime(_reactor).callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._waits = False
        if not self.connected:
            return
        self.transport.resumeProducing()
        if not self._waits:  # what came with resuming may have taken a turn
            self._take(AT_ONCE)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """Wake up whoever waits."""
        self._take(None)
        super().connectionLost(reason)
        if not self.shaken.called:
            self.shaken.errback(reason)


def _message_size(data: bytes | bytearray) -> int | None:
    """The octets of the LDAPMessage that begins here; None while its length is not known."""
    if len(data) < 2:
        return None
    first = data[1]
    if data[0] != 0x30 or first == 0x80 or first > 0x84:
        raise ValueError("no LDAPMessage")
    if first < 0x80:
        return 2 + first
    count = first & 0x7F
    if len(data) < 2 + count:
        return None
    size = 2 + count + int.from_bytes(data[2 : 2 + count], "big")
    if size > MAX_MESSAGE:
        raise ValueError("message too large")
    return size
