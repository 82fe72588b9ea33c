"""Twisted Web's site with what it lacks: caps on bodies and connections, and a deadline for each request to come in."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from protocols.management.problems import CONTENT_TYPE, problem


@attrs.frozen
class ApiLimits:
    """Bounds of the listener. ``timeout`` in seconds: for a handshake, for a request to come in, and between two."""

    connections: int = 256
    body_bytes: int = 1024 * 1024
    timeout: float = 30.0


class BoundedRequest(Request):
    """Refuses a body that is larger than the site allows, before it is kept anywhere."""

    _seen = 0
    _refused = False

    def gotLength(self, length: int | None) -> None:  # noqa: N802
        """Called with what Content-Length says; None where the body comes in chunks."""
        super().gotLength(length)  # type: ignore[no-untyped-call]
        if length is not None and length > self._most:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802
        """Called with each part of the body."""
        self._seen += len(data)
        if self._seen > self._most:
            self._refuse()
        elif not self._refused:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]

    def process(self) -> None:
        """Called when all of it is there."""
        if not self._refused:
            super().process()  # type: ignore[no-untyped-call]

    @property
    def _most(self) -> int:
        channel: Any = self.channel
        most: int = channel.site.limits.body_bytes
        return most

    def _refuse(self) -> None:
        if self._refused:
            return
        self._refused = True
        channel: Any = self.channel
        channel.turn_away(413, b"Content Too Large", "body", f"a body has at most {self._most} octets")


class BoundedChannel(HTTPChannel):
    """A connection whose requests must come in within the site's timeout, however slowly their octets drip."""

    site: Any
    _deadline: IDelayedCall | None = None
    _turned_away = False

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Called with octets."""
        if self._turned_away:
            return
        if self._deadline is None and not self.requests:
            self._deadline = self.site.clock.callLater(self.site.limits.timeout, self._too_late)
        super().dataReceived(data)  # type: ignore[no-untyped-call]

    def allContentReceived(self) -> None:  # noqa: N802
        """Called when a request is whole."""
        self._stop_deadline()
        super().allContentReceived()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """Called at the end."""
        self._stop_deadline()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def turn_away(self, status: int, phrase: bytes, name: str, text: str) -> None:
        """Answer a request that is not read further, and hang up."""
        self._turned_away = True
        octets = problem(status, name, text, "none").octets()
        head = (
            b"HTTP/1.1 %d %s\r\nConnection: close\r\nCache-Control: no-store\r\n"
            b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n"
        )
        transport: Any = self.transport
        transport.write(head % (status, phrase, CONTENT_TYPE, len(octets)) + octets)
        self.loseConnection()  # type: ignore[no-untyped-call]

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802
        """Called with a line that is too long; Twisted would hang up without an answer, when the time is over."""
        del line
        self._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802
        """Called where the head of a request is malformed or too long."""
        text = f"the request's line and headers are malformed, or have more than {self.totalHeadersSize} octets"
        self.turn_away(400, b"Bad Request", "malformed", text)

    def _too_late(self) -> None:
        self._deadline = None
        self.forceAbortClient()  # type: ignore[no-untyped-call]

    def _stop_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()


class ApiSite(Site):
    """The API's site."""

    noisy = False

    def __init__(self, resource: IResource, limits: ApiLimits, clock: IReactorTime) -> None:
        super().__init__(resource, BoundedRequest, timeout=limits.timeout, reactor=clock)  # type: ignore[no-untyped-call]
        self.limits = limits
        self.clock = clock
        self.displayTracebacks = False
        self.protocol = BoundedChannel  # type: ignore[method-assign,assignment]  # how Twisted's factories are told

    def _openLogFile(self, path: str | bytes) -> Any:  # noqa: N802
        """No log file: the API logs through the node's log."""
        del path

    def log(self, request: Any) -> None:
        """Nothing: each call has its own line."""


class ApiFactory(TLSMemoryBIOFactory):
    """The site behind TLS, for so many connections and no more."""

    noisy = False

    def __init__(self, server: IOpenSSLServerConnectionCreator, site: ApiSite) -> None:
        super().__init__(server, False, site)
        self._most = site.limits.connections
        self._site = site

    def buildProtocol(self, addr: IAddress | None) -> TLSMemoryBIOProtocol | None:  # type: ignore[override]  # noqa: N802
        """The protocol of a new connection; None, which closes it, where there are too many."""
        if len(self.protocols) >= self._most:
            return None
        return super().buildProtocol(addr)

    async def drain(self, seconds: float) -> None:
        """Let running requests end within ``seconds``, then close every connection."""
        step, waited = 0.05, 0.0
        while waited < seconds and any(self._is_busy(one) for one in self.protocols):
            done: Deferred[None] = Deferred()
            self._site.clock.callLater(step, done.callback, None)
            await done
            waited += step
        for one in list(self.protocols):
            one.abortConnection()

    @staticmethod
    def _is_busy(one: Any) -> bool:
        return bool(getattr(one.wrappedProtocol, "requests", ()))
