"""A small HTTP client on Twisted's Agent: no redirects, bounded answers, own trust anchors, one time limit for all."""

from __future__ import annotations

from datetime import timedelta
from io import BytesIO
from typing import Any, cast

import attrs
import twisted.web.client
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI, RequestTransmissionFailed, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from pkiserver.foundation.tomlfile import Invalid
from pkiserver.outbound.addresses import Timeouts, WebAddress
from pkiserver.outbound.dial import connect, within
from pkiserver.outbound.problems import OutboundError, Trouble
from pkiserver.outbound.trust import TlsClient, TlsTrust, unusable

MOST_HEAD = 256 * 1024
"""Octets that may come before an answer's body: its head, interim answers, and the handshake where there is TLS."""


@attrs.frozen
class Answer:
    """What came back."""

    status: int
    body: bytes
    headers: Headers

    def header(self, name: str) -> str | None:
        """The only value of a header; None where there is none, or more than one, or it is not printable ASCII."""
        values = self.headers.getRawHeaders(name.encode("ascii")) or []
        value = values[0].decode("latin-1") if len(values) == 1 else ""
        return value if value and value.isascii() and value.isprintable() else None


class _Line:
    """The connection of one request: counts what comes before the body, and can be cut."""

    def __init__(self) -> None:
        self.complete = False
        """The head of the answer is there."""
        self._octets = 0
        self._wire: Any = None

    @property
    def is_too_long(self) -> bool:
        """Whether what came before the body had no end: then it was cut."""
        return not self.complete and self._octets > MOST_HEAD

    def watch(self, connection: IProtocol) -> None:
        """Count what a new connection receives from now on."""
        self._wire = wire = cast("Any", connection)
        receive = wire.dataReceived

        def received(data: bytes) -> None:
            self._octets += len(data)
            receive(data)  # where the head ends in it, it is complete now
            if self.is_too_long:
                self.cut()

        wire.dataReceived = received

    def cut(self) -> None:
        """End it, whatever the other end is about."""
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.abortConnection()


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """Connects as the rest of this room does, so that errors are told apart."""

    def __init__(self, host: str, port: int, limit: timedelta, line: _Line) -> None:
        self._to = (host, port, limit)
        self._line = line

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:  # noqa: N803
        """Twisted's interface."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        connection = await connect(factory, *self._to)
        self._line.watch(connection)
        return connection


@implementer(IAgentEndpointFactory)
class _Endpoints:
    def __init__(self, client: TlsClient | None, limit: timedelta, line: _Line) -> None:
        self._client = client
        self._limit = limit
        self._line = line

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802
        """Twisted's interface."""
        plain = _Endpoint(uri.host.decode().strip("[]"), uri.port, self._limit, self._line)
        return cast("IStreamClientEndpoint", plain if self._client is None else wrapClientTLS(self._client, plain))


class _Body(Protocol):
    def __init__(self, limit: int, line: _Line) -> None:
        # whoever does not wait any more must not leave a connection behind that goes on filling the memory
        self.done: Deferred[bytes] = Deferred(lambda _: line.cut())
        self._limit = limit
        self._line = line
        self._data = bytearray()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self.done.called:
            return
        self._data += data
        if len(self._data) > self._limit:
            self.done.errback(ValueError(f"the answer has more than {self._limit} octets"))
            self._line.cut()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if self.done.called:
            return
        # an answer that ends with its connection (HTTP/1.0) may be cut; what is read with this client is signed
        if isinstance(reason.value, ResponseDone | PotentialDataLoss):
            self.done.callback(bytes(self._data))
        else:
            self.done.errback(ValueError("the answer is not whole"))


async def fetch(
    address: WebAddress,
    *,
    trust: TlsTrust | None,
    timeouts: Timeouts,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    limit: int = 64 * 1024,
    method: str | None = None,
) -> Answer:
    """GET, or POST where there is a body; or another ``method``.

    Raises:
        OutboundError: told apart by its ``trouble``; a status is not judged here.
    """
    client = _client(address, trust)
    # twisted.web.client is not typed
    web: Any = twisted.web.client
    line = _Line()
    agent = web.Agent.usingEndpointFactory(_reactor, _Endpoints(client, timeouts.connect, line))
    sent = Headers({name: [value] for name, value in (headers or {}).items()})
    producer = None if body is None else web.FileBodyProducer(BytesIO(body))
    silent = OutboundError(Trouble.SILENT, str(address), f"no answer within {timeouts.answer}")

    async def run() -> Answer:
        verb = method or ("GET" if body is None else "POST")
        response: Any = await agent.request(verb.encode(), str(address).encode(), sent, producer)
        line.complete = True
        receiver = _Body(limit, line)
        response.deliverBody(receiver)
        return Answer(response.code, await receiver.done, response.headers)

    seconds = (timeouts.connect + timeouts.answer).total_seconds()
    try:
        return await within(run(), seconds, lambda: silent)
    except OutboundError:
        raise
    except (ResponseFailed, RequestTransmissionFailed, SSL.Error, ValueError) as error:
        if client is not None and client.check.problem:
            raise OutboundError(Trouble.TLS, str(address), client.check.problem) from error
        if line.is_too_long:
            text = f"more than {MOST_HEAD} octets came before the answer's body"
            raise OutboundError(Trouble.ANSWER, str(address), text) from error
        raise _lost(address, error) from error


def _client(address: WebAddress, trust: TlsTrust | None) -> TlsClient | None:
    if address.scheme == "http":
        return None
    if trust is None:
        raise OutboundError(Trouble.TLS, str(address), "no trust anchors are set")
    try:
        return trust.creator(address.host)
    except (Invalid, OSError, SSL.Error) as error:
        raise unusable(str(address), error) from error


def _lost(address: WebAddress, error: Exception) -> OutboundError:
    reasons = getattr(error, "reasons", None)
    inner = reasons[0].value if reasons else error
    if isinstance(inner, SSL.Error):
        alerts = ", ".join(str(part[-1]) for part in (inner.args[0] if inner.args else []) if part)
        return OutboundError(Trouble.TLS, str(address), f"the handshake failed: {alerts or 'no reason given'}")
    return OutboundError(Trouble.ANSWER, str(address), f"{inner}".rstrip(".") or type(inner).__name__)
