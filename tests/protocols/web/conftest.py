"""Real listeners on the reactor thread; the tests are clients with plain sockets on their own thread."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as _reactor
from twisted.logger import globalLogPublisher

from pkiserver.foundation.clock import SystemClock
from protocols.web.factory import HttpServerFactory
from protocols.web.limits import WebLimits
from protocols.web.router import Router
from protocols.web.tls import TlsIdentity, TlsOptions, TlsServer, over_tls
from protocols.web.values import Handler, Method, Request, Response, Route

reactor: Any = _reactor

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


GET_CLOSE = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def certificate(name: str, *, padding: int = 0) -> TlsIdentity:
    """A fresh self-signed certificate and its key; ``padding`` octets in an extension make it large."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    if padding:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(padding))
        builder = builder.add_extension(unknown, critical=False)
    built = builder.sign(key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return TlsIdentity(built.public_bytes(Encoding.PEM), pem)


@attrs.define
class Server:
    """A listener and what a test may ask of it."""

    factory: HttpServerFactory
    port: Any
    number: int
    tls: TlsServer | None

    def connect(self, *, context: ssl.SSLContext | None = None, receive_buffer: int | None = None) -> Client:
        raw = socket.socket()
        if receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.settimeout(10)
        raw.connect(("127.0.0.1", self.number))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is None:
            return Client(raw)
        return Client((context or trusting()).wrap_socket(raw, server_hostname="localhost"))

    def ask(self, data: bytes) -> bytes:
        """Everything the server says to ``data`` until it closes; a request should ask for that."""
        with self.connect() as client:
            client.send(data)
            return client.until_closed()


def trusting() -> ssl.SSLContext:
    """A client that believes everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class Client:
    """One connection, read in whole answers."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._held = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def until_closed(self) -> bytes:
        """What comes until the server closes, in order or by a reset."""
        pieces = [self._held]
        self._held = b""
        try:
            while piece := self.sock.recv(65536):
                pieces.append(piece)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
            pass
        return b"".join(pieces)

    def _more(self) -> None:
        piece = self.sock.recv(65536)
        if not piece:
            raise EOFError(self._held)
        self._held += piece

    def head(self) -> tuple[int, dict[str, str]]:
        """The next status and headers (names in lower case)."""
        while b"\r\n\r\n" not in self._held:
            self._more()
        head, _, self._held = self._held.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = (line.split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), {name.lower(): value for name, value in fields}

    def take(self, length: int) -> bytes:
        """The next ``length`` octets."""
        pieces, self._held = [self._held], b""
        came = len(pieces[0])
        while came < length:
            pieces.append(self.sock.recv(1 << 20))
            came += len(pieces[-1])
        whole = b"".join(pieces)
        self._held = whole[length:]
        return whole[:length]

    def rest_of(self, length: int) -> int:
        """Read and drop a body of ``length`` octets, quickly; says how many came."""
        came, self._held = len(self._held), b""
        buffer = bytearray(1 << 20)
        while came < length and (got := self.sock.recv_into(buffer, min(len(buffer), length - came))):
            came += got
        return came

    def answer(self, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
        """The next answer whole."""
        status, headers = self.head()
        length = 0 if bodiless else int(headers.get("content-length", "0"))
        while len(self._held) < length:
            self._more()
        body, self._held = self._held[:length], self._held[length:]
        return status, headers, body

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing arrives."""
        self.sock.settimeout(seconds)
        try:
            self._more()
        except TimeoutError:
            return not self._held
        finally:
            self.sock.settimeout(10)
        return False


async def echo(request: Request) -> Response:
    return Response(200, request.body, "application/octet-stream")


def hello(_request: Request) -> Response:
    return Response(200, b"hello", "text/plain")


ROUTES = (
    Route("hello", "/a", {Method.GET}, hello),
    Route("echo", "/echo", {Method.POST}, echo, max_body=1000),
)


Serve = Callable[..., Server]


@pytest.fixture
def serve(on_reactor: Callable[[Callable[[], Any]], Any]) -> Iterator[Serve]:
    """Start a listener: ``serve(*routes, tls=identity, options=..., **limits)``."""
    servers = []

    def start(
        *routes: Route, tls: TlsIdentity | None = None, options: TlsOptions | None = None, **limits: Any
    ) -> Server:
        limits.setdefault("sweep_seconds", 0.05)

        async def listen() -> Server:
            factory = HttpServerFactory(Router(routes or ROUTES), WebLimits(**limits), SystemClock(), reactor)
            shown = None if tls is None else TlsServer(tls, options or TlsOptions())
            wrapped = factory if shown is None else over_tls(factory, shown)
            port = reactor.listenTCP(0, wrapped, interface="127.0.0.1")
            return Server(factory, port, port.getHost().port, shown)

        servers.append(server := on_reactor(listen))
        return server

    yield start

    async def stop() -> None:
        for server in servers:
            await server.port.stopListening()
            await server.factory.drain(0.05)

    on_reactor(stop)


@pytest.fixture
def log_lines() -> Iterator[list[dict[str, Any]]]:
    """The edge's log events."""
    events: list[dict[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_namespace") == "pkiserver.http":
            events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


def eventually(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until ``true()``; fail when it does not come."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.01)


@pytest.fixture(params=["plain", "tls"])
def identity(request: pytest.FixtureRequest) -> TlsIdentity | None:
    """Every test with it runs twice: in the clear and over TLS."""
    return certificate("localhost") if request.param == "tls" else None


def on(handler: Handler, path: str = "/a", **more: Any) -> Route:
    return Route("tested", path, {Method.GET}, handler, **more)


def get(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path
