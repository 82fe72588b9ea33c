"""The management listener: /health/live, /health/ready, /metrics; and each worker's private counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkiserver.runtime.health import Finding, Health, NamedCheck, is_ready, run_checks
from pkiserver.runtime.metrics import CONTENT_TYPE, merge, own_metrics
from protocols.web.errors import plain
from protocols.web.values import Method, Request, Response, Route

reactor: Any = _reactor
_log = Logger(namespace="pkiserver.management")
_GET = frozenset({Method.GET})
PEER_SECONDS = 2.0
"""A worker that does not show its counts by then is left out of the answer."""
PEER_OCTETS = 4 * 1024 * 1024
STARTING_OCTETS = 1024 * 1024
"""The largest body of a request that is told to come again later."""
JSON = "application/json"


class Management:
    """Routes of the management listener of one worker.

    Args:
        worker: This worker's name.
        registry: Its counts.
        peers: Name of each other worker to the path of its private socket.
    """

    def __init__(self, worker: str, registry: CollectorRegistry, peers: dict[str, str]) -> None:
        self.checks: Sequence[NamedCheck] | None = None
        """What readiness asks; None until the engine is open."""
        self.starting: str | None = None
        """What opening the engine waits for, where that is known."""
        self.stopping = False
        self._worker = worker
        self._registry = registry
        self._peers = peers

    def routes(self) -> list[Route]:
        """What the management listener answers."""
        return [
            Route("health-live", "/health/live", _GET, self.live, quiet=True),
            Route("health-ready", "/health/ready", _GET, self.ready, quiet=True),
            Route("metrics", "/metrics", _GET, self.metrics, quiet=True),
        ]

    def private_routes(self) -> list[Route]:
        """What the other workers may ask on the private socket."""
        return [Route("own-metrics", "/metrics", _GET, self.own, quiet=True)]

    async def live(self, _request: Request) -> Response:
        """200 as long as the reactor answers at all."""
        return Response(200, b'{"live": true}\n', JSON)

    async def ready(self, _request: Request) -> Response:
        """200 when everything that is needed is there, else 503; each thing by name."""
        findings = await self.findings()
        answer = {
            "ready": is_ready(findings),
            "worker": self._worker,
            "checks": [{"name": f.name, "health": f.health.value, "text": f.text} for f in findings],
        }
        return Response(200 if answer["ready"] else 503, json.dumps(answer, indent=1).encode() + b"\n", JSON)

    async def findings(self) -> tuple[Finding, ...]:
        """How everything is now."""
        if self.stopping:
            return (Finding("node", Health.FAILED, "stopping"),)
        if self.checks is None:
            return (Finding("node", Health.FAILED, self.starting or "the engine is being opened"),)
        return (Finding("node", Health.OK, "serving"), *await run_checks(self.checks, reactor))

    async def own(self, _request: Request) -> Response:
        """This worker's counts."""
        return Response(200, own_metrics(self._registry).encode(), CONTENT_TYPE)

    async def metrics(self, _request: Request) -> Response:
        """All workers' counts."""
        names = list(self._peers)
        answers: list[tuple[bool, Any]] = await DeferredList(
            [_ask(self._peers[name]) for name in names], consumeErrors=True
        )
        texts = {self._worker: own_metrics(self._registry)}
        for name, (fine, answer) in zip(names, answers, strict=True):
            if fine:
                texts[name] = answer
            else:
                _log.warn("worker {peer} did not show its metrics: {why}", peer=name, why=answer.getErrorMessage())
        return Response(200, merge(texts).encode(), CONTENT_TYPE)


def waiting_routes(seconds: float) -> list[Route]:
    """What is answered, whatever is asked, by a server that waits for its database: to come again later."""

    async def later(_request: Request) -> Response:
        return plain(503, "the server is starting; try again later", headers=(("Retry-After", f"{seconds:.0f}"),))

    return [Route("starting", "/", frozenset(Method), later, prefix=True, max_body=STARTING_OCTETS, quiet=True)]


class _Answer(Protocol):
    """Reads one HTTP answer to its end; the private socket's other end is our own server."""

    def __init__(self) -> None:
        self.done: Deferred[str] = Deferred()
        self._octets = bytearray()

    def connectionMade(self) -> None:  # noqa: N802
        assert self.transport is not None
        self.transport.write(b"GET /metrics HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self._octets += data
        if len(self._octets) > PEER_OCTETS:
            assert self.transport is not None
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        del reason
        head, blank, body = bytes(self._octets).partition(b"\r\n\r\n")
        if blank and head.startswith(b"HTTP/1.1 200 ") and len(self._octets) <= PEER_OCTETS:
            self.done.callback(body.decode())
        else:
            self.done.errback(ValueError("no proper answer"))


def _ask(path: str) -> Deferred[str]:
    async def ask() -> str:
        answer: _Answer = await connectProtocol(  # type: ignore[no-untyped-call]
            UNIXClientEndpoint(reactor, path, timeout=PEER_SECONDS),  # type: ignore[no-untyped-call]
            _Answer(),
        )
        return await answer.done

    deferred = Deferred.fromCoroutine(ask())
    deferred.addTimeout(PEER_SECONDS, reactor)
    return deferred
