"""The listener's Twisted factory: admits connections, watches deadlines, drains."""

from __future__ import annotations

import ipaddress
from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolNegotiationFactory, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from pkiserver.foundation.clock import Clock
from protocols.web.connection import HttpConnection
from protocols.web.errors import LimitHit
from protocols.web.limits import WebLimits
from protocols.web.listener import Listener
from protocols.web.metrics import WebMetrics
from protocols.web.router import Router
from protocols.web.wire import Wire, is_tls

ALPN_PROTOCOLS = (b"http/1.1", b"http/1.0")
"""In our order of preference (RFC 7301 section 6); `curl --http1.0` offers only the second."""
_REFUSED = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: %d\r\nContent-Length: 0\r\n"
    b"Cache-Control: no-store\r\nConnection: close\r\n\r\n"
)


@implementer(IProtocolNegotiationFactory)
class HttpServerFactory(Factory):
    """HTTP/1.1 for one listener; wrap it in a TLSMemoryBIOFactory for TLS.

    Args:
        router: the listener's routes; :meth:`replace_router` exchanges them while serving.
        limits: what the listener puts up with.
        clock: monotonic time for deadlines, wall time for ``Date``.
        reactor: runs the sweep over the deadlines.
        metrics: counts; may be shared by the listeners of a process.
    """

    noisy = False

    def __init__(
        self,
        router: Router,
        limits: WebLimits,
        clock: Clock,
        reactor: IReactorTime,
        metrics: WebMetrics | None = None,
    ) -> None:
        self.metrics = WebMetrics() if metrics is None else metrics
        self._listener = Listener(router, limits, clock, self.metrics, reactor)
        self._reactor = reactor
        self._connections: set[HttpConnection] = set()
        self._per_address: dict[str, int] = {}
        self._sweep_call: IDelayedCall | None = None
        self._drained: list[Deferred[None]] = []

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802
        """What ALPN may choose: without this every client that offers ALPN would be turned away."""
        return list(ALPN_PROTOCOLS)

    def replace_router(self, router: Router) -> None:
        """Serve other routes from the next request on."""
        self._listener.router = router

    @property
    def open_connections(self) -> int:
        """Connections open now."""
        return len(self._connections)

    def buildProtocol(self, addr: IAddress | None) -> Protocol:  # noqa: N802
        """A connection, or what turns it away when there are too many."""
        address = _address_text(addr)
        key = address_key(address)
        limits = self._listener.limits
        if self._listener.draining or len(self._connections) >= limits.connections:
            return self._turn_away(address, LimitHit.CONNECTIONS)
        if self._per_address.get(key, 0) >= limits.connections_per_address:
            return self._turn_away(address, LimitHit.CONNECTIONS_PER_ADDRESS)
        connection = HttpConnection(self._listener, self._forget, address)
        connection.factory = self
        self._connections.add(connection)
        self._per_address[key] = self._per_address.get(key, 0) + 1
        self.metrics.connections_accepted += 1
        self.metrics.connections_open += 1
        self._watch()
        return connection

    def drain(self, deadline_seconds: float) -> Deferred[None]:
        """Finish: close idle connections, answer what was asked, cut what is left after ``deadline_seconds``.

        Stop the port from listening first; connections that still arrive are turned away. Fires when the last
        connection is gone.
        """
        self._listener.draining = True
        done: Deferred[None] = Deferred()
        if not self._connections:
            done.callback(None)
            return done
        self._drained.append(done)
        cut = self._reactor.callLater(deadline_seconds, self._cut_all)
        done.addBoth(_cancel_call, cut)
        for connection in tuple(self._connections):
            connection.leave()
        return done

    def _cut_all(self) -> None:
        for connection in tuple(self._connections):
            connection.abort()

    def _turn_away(self, address: str, limit: LimitHit) -> Protocol:
        self.metrics.limit(limit)
        self._listener.log.cut(peer=address, limit=limit)
        return _TurnedAway(self._listener.limits.retry_after_seconds)

    def _forget(self, connection: HttpConnection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self.metrics.connections_open -= 1
        key = address_key(connection.address)
        left = self._per_address[key] - 1
        if left:
            self._per_address[key] = left
        else:
            del self._per_address[key]
        if not self._connections:
            self._last_left()

    def _last_left(self) -> None:
        if self._sweep_call is not None:
            self._sweep_call.cancel()
            self._sweep_call = None
        drained, self._drained = self._drained, []
        for done in drained:
            done.callback(None)

    def _watch(self) -> None:
        if self._sweep_call is None:
            self._sweep_call = self._reactor.callLater(self._listener.limits.sweep_seconds, self._sweep)

    def _sweep(self) -> None:
        self._sweep_call = None
        now = self._listener.clock.monotonic()
        for connection in tuple(self._connections):
            connection.sweep(now)
        if self._connections:
            self._watch()


class _TurnedAway(Protocol):
    """Says 503 on a plain connection; a TLS connection is cut before its handshake costs anything."""

    def __init__(self, retry_after: int) -> None:
        self._retry_after = retry_after

    def connectionMade(self) -> None:  # noqa: N802
        wire = cast("Wire", self.transport)
        if is_tls(wire):
            wire.abortConnection()
        else:
            wire.write(_REFUSED % self._retry_after)
            wire.loseConnection()


def _cancel_call(_result: None, call: IDelayedCall) -> None:
    if call.active():
        call.cancel()


def _address_text(addr: IAddress | None) -> str:
    host = getattr(addr, "host", None)
    return host if isinstance(host, str) else "local"


def address_key(address: str) -> str:
    """By what connections are counted: an IPv4 address, or the /64 of an IPv6 one, which one client has to itself."""
    if ":" not in address:
        return address
    parsed = ipaddress.IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)).network_address)
