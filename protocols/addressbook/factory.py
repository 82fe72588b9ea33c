"""The LDAP listeners' Twisted factory: admits connections, watches deadlines, drains."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import Factory, Protocol

from protocols.addressbook.edge import LdapConnection
from protocols.addressbook.errors import LimitHit
from protocols.addressbook.service import Service
from protocols.web.factory import address_key


class LdapServerFactory(Factory):
    """LDAP for one listener.

    Args:
        service: The operations, shared by the listeners of a process.
        reactor: Runs the sweep over the deadlines.
        tls: Makes the TLS connections of StartTLS; None where there is none.
    """

    noisy = False

    def __init__(self, service: Service, reactor: IReactorTime, tls: IOpenSSLServerConnectionCreator | None) -> None:
        self._service = service
        self._reactor = reactor
        self._tls = tls
        self._connections: set[LdapConnection] = set()
        self._per_address: dict[str, int] = {}
        self._sweep_call: IDelayedCall | None = None
        self._draining = False
        self._drained: list[Deferred[None]] = []

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:  # noqa: N802
        """A connection; None, which closes it, when there are too many."""
        host = getattr(addr, "host", None)
        address = host if isinstance(host, str) else "local"
        key = address_key(address)
        limits, metrics = self._service.limits, self._service.metrics
        if self._draining or len(self._connections) >= limits.connections:
            metrics.limit(LimitHit.CONNECTIONS)
            return None
        if self._per_address.get(key, 0) >= limits.connections_per_address:
            metrics.limit(LimitHit.CONNECTIONS_PER_ADDRESS)
            return None
        connection = LdapConnection(self._service, address, key, self._tls, self._forget)
        connection.factory = self
        self._connections.add(connection)
        self._per_address[key] = self._per_address.get(key, 0) + 1
        metrics.connections += 1
        metrics.open += 1
        if self._sweep_call is None:
            self._sweep_call = self._reactor.callLater(limits.sweep_seconds, self._sweep)
        return connection

    def _forget(self, connection: LdapConnection) -> None:
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._service.metrics.open -= 1
        left = self._per_address[connection.caller_key] - 1
        if left:
            self._per_address[connection.caller_key] = left
        else:
            del self._per_address[connection.caller_key]
        if not self._connections:
            if self._sweep_call is not None:
                self._sweep_call.cancel()
                self._sweep_call = None
            drained, self._drained = self._drained, []
            for one in drained:
                one.callback(None)

    def _sweep(self) -> None:
        self._sweep_call = None
        now = self._service.clock.monotonic()
        for connection in tuple(self._connections):
            connection.sweep(now)
            if self._draining:
                connection.leave()
        if self._connections:
            self._sweep_call = self._reactor.callLater(self._service.limits.sweep_seconds, self._sweep)

    async def drain(self, seconds: float) -> None:
        """Let what is under way end within ``seconds``, then cut what is left. Stop the port from listening first."""
        self._draining = True
        if not self._connections:
            return
        done: Deferred[None] = Deferred()
        self._drained.append(done)
        cut = self._reactor.callLater(seconds, self._cut_all)
        for connection in tuple(self._connections):
            connection.leave()
        await done
        if cut.active():
            cut.cancel()

    def _cut_all(self) -> None:
        for connection in tuple(self._connections):
            connection.abort()
