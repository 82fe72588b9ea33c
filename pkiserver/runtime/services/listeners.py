"""Listening services: adopt bound sockets, give them a factory, stop accepting, drain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet import reactor as _reactor
from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import IResource

from pkiserver.foundation.clock import Clock
from pkiserver.runtime.services.acceptance import adopt
from pkiserver.runtime.services.tlsfiles import TlsFiles
from pkiserver.runtime.sockets import BoundSocket
from protocols.addressbook.factory import LdapServerFactory
from protocols.addressbook.service import Service as LdapService
from protocols.management.site import ApiFactory, ApiLimits, ApiSite
from protocols.web.factory import HttpServerFactory
from protocols.web.limits import WebLimits
from protocols.web.metrics import WebMetrics
from protocols.web.router import Router
from protocols.web.tls import over_tls
from protocols.web.values import Route

reactor: Any = _reactor
_log = Logger(namespace="pkiserver.listener")


class _Listening(Service):
    """Bound sockets under a name; they are listened on only from the moment that there is something to answer with."""

    def __init__(self, name: str, sockets: Sequence[BoundSocket]) -> None:
        self.setName(name)  # type: ignore[no-untyped-call]
        self.sockets = tuple(sockets)
        self._ports: list[IListeningPort] = []

    def _accept(self, factory: IProtocolFactory) -> None:
        for bound in self.sockets:
            self._ports.append(adopt(bound, factory))
            _log.info("{listener} listens on {place}", listener=self.name, place=bound.place)

    async def _stop_accepting(self) -> None:
        ports, self._ports = self._ports, []
        await gatherResults([maybeDeferred(port.stopListening) for port in ports])
        for bound in self.sockets:
            bound.socket.close()


class HttpListener(_Listening):
    """One named listener: its sockets, and the HTTP server on them. It listens only once :meth:`listen` gave routes."""

    def __init__(
        self,
        name: str,
        sockets: Sequence[BoundSocket],
        *,
        limits: WebLimits,
        clock: Clock,
        metrics: WebMetrics,
        tls: TlsFiles | None = None,
    ) -> None:
        super().__init__(name, sockets)
        self.tls = tls
        self.http = HttpServerFactory(Router(()), limits, clock, reactor, metrics)

    @property
    def places(self) -> list[str]:
        """Where it listens."""
        return [one.place for one in self.sockets]

    def listen(self, routes: Sequence[Route]) -> None:
        """Begin to accept, or, when it already does, serve other routes from the next request on."""
        self.http.replace_router(Router(routes))
        if self._ports:
            return
        self._accept(self.http if self.tls is None else over_tls(self.http, self.tls.server))

    async def drain(self, seconds: float) -> None:
        """Stop accepting, let running requests end within ``seconds``."""
        await self._stop_accepting()
        await self.http.drain(seconds)


class LdapListener(_Listening):
    """The address book on its sockets; ``tls`` is spoken from the start where ``secure``, else after StartTLS."""

    def __init__(self, name: str, sockets: Sequence[BoundSocket], tls: TlsFiles | None, *, secure: bool) -> None:
        super().__init__(name, sockets)
        self._tls = tls
        self._secure = secure
        self._factory: LdapServerFactory | None = None

    def listen(self, service: LdapService) -> None:
        """Begin to accept."""
        server = None if self._tls is None else self._tls.server
        self._factory = LdapServerFactory(service, reactor, None if self._secure else server)
        if self._secure:
            assert server is not None  # the settings say so
            self._accept(TLSMemoryBIOFactory(server, False, self._factory))
        else:
            self._accept(self._factory)

    async def drain(self, seconds: float) -> None:
        """Stop accepting, let running operations end within ``seconds``."""
        await self._stop_accepting()
        if self._factory is not None:
            await self._factory.drain(seconds)


class ApiListener(_Listening):
    """The management API on its sockets."""

    def __init__(self, sockets: Sequence[BoundSocket], tls: TlsFiles | None, limits: ApiLimits) -> None:
        super().__init__("api", sockets)
        self._tls = tls
        self._limits = limits
        self._factory: ApiFactory | None = None

    def listen(self, resource: IResource) -> None:
        """Begin to accept."""
        if not self.sockets:
            return
        assert self._tls is not None  # the settings say so
        self._factory = ApiFactory(self._tls.server, ApiSite(resource, self._limits, reactor))
        self._accept(self._factory)

    async def drain(self, seconds: float) -> None:
        """Stop accepting, let running requests end within ``seconds``."""
        await self._stop_accepting()
        if self._factory is not None:
            await self._factory.drain(seconds)
