"""ldaptor's LDAP client within bounds: whole messages only, none too large, whatever ldaptor makes of a broken one."""

from __future__ import annotations

from ldaptor.protocols.ldap.ldapclient import LDAPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

MAX_MESSAGE = 8 * 1024 * 1024
"""Octets of one message from a server."""


@implementer(IHandshakeListener)
class Client(LDAPClient):  # type: ignore[misc]  # ldaptor is not typed
    """ldaptor's client, with bounds, and with a word about how the TLS handshake went."""

    def __init__(self) -> None:
        super().__init__()
        self.shaken: Deferred[None] = Deferred()
        self._pending = bytearray()

    def handshakeCompleted(self) -> None:  # noqa: N802
        """Twisted's interface."""
        if not self.shaken.called:
            self.shaken.callback(None)

    def dataReceived(self, recd: bytes) -> None:  # noqa: N802
        """Take whole messages only, none larger than the limit."""
        self._pending += recd
        try:
            while (size := _message_size(self._pending)) is not None and len(self._pending) >= size:
                message, self._pending = bytes(self._pending[:size]), self._pending[size:]
                super().dataReceived(message)
        except Exception:  # noqa: BLE001 - whatever ldaptor makes of a broken answer (KeyError, RecursionError, ...)
            self._pending.clear()
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """Wake up whoever waits."""
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
