"""A status world behind a real HTTP listener: OCSP, CRLs and CA certificates on one loopback port."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor as _reactor
from twisted.internet.threads import blockingCallFromThread

from pkiserver.authority.requests import IssuedCertificate
from pkiserver.keys.settings import ProviderSettings
from protocols.crl import edge as crl_edge
from protocols.ocsp import edge as ocsp_edge
from protocols.web.factory import HttpServerFactory
from protocols.web.limits import WebLimits
from protocols.web.router import Router
from tests.authority.status_world import StatusWorld, status_world

reactor: Any = _reactor


@attrs.frozen
class Answer:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


@attrs.frozen
class StatusServer:
    """The world, and where it is served."""

    at: StatusWorld
    port: int
    directory: Path
    run: Callable[[Any], Any]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, fields)
        answer = connection.getresponse()
        found = Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        connection.close()
        return found

    def issue(self, common_name: str = "device 1") -> IssuedCertificate:
        issued: IssuedCertificate = self.run(lambda: self.at.certificate(common_name))
        return issued

    def file(self, name: str, *certificates: bytes) -> str:
        """A PEM file of DER certificates; its path."""
        path = self.directory / name
        path.write_bytes(
            b"".join(x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in certificates)
        )
        return str(path)


def tool(*command: str) -> str:
    """What a program says, on both outputs."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout + done.stderr


@contextmanager
def status_server(
    directory: Path,
    stores: tuple[ProviderSettings, ...],
    run: Callable[[Any], Any],
    settings: ocsp_edge.OcspSettings | None = None,
) -> Iterator[StatusServer]:
    """A started server with responders and first lists."""
    with status_world(directory, stores, run) as at:

        async def prepare() -> None:
            await at.status.responders.run_due()
            await at.status.schedule.run_due()
            await at.status.directory.refresh()

        run(prepare)
        routes = [
            *ocsp_edge.routes(at.status.directory, at.clock, settings or ocsp_edge.OcspSettings()),
            *crl_edge.routes(at.status.publications, at.clock, crl_edge.CrlSettings()),
        ]
        factory = HttpServerFactory(Router(routes), WebLimits(), at.clock, reactor)
        port = blockingCallFromThread(reactor, reactor.listenTCP, 0, factory, 50, "127.0.0.1")
        try:
            yield StatusServer(at, port.getHost().port, directory, run)
        finally:
            blockingCallFromThread(reactor, port.stopListening)
