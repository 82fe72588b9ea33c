"""Every limit of the edge over real sockets: what the client sees, what is counted, and that others are served."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time

import pytest
from twisted.internet.defer import Deferred

from protocols.web.errors import LimitHit
from protocols.web.factory import address_key
from protocols.web.limits import WebLimits
from protocols.web.values import Method, Response, Route
from tests.protocols.web.conftest import ROUTES, certificate, eventually, get, hello, on, reactor
from tests.protocols.web.vectors import BAD

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
GET_CLOSE = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def post(body: bytes, path: bytes = b"/echo") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body)


@pytest.fixture(params=["plain", "tls"])
def identity(request):
    return certificate("localhost") if request.param == "tls" else None


def test_every_bad_request_is_answered_and_closes(serve, identity, log_lines):
    """Over plain TCP and TLS alike: the status, then the end; one log line each; the next client is served."""
    routes = (
        Route("get", "/", {Method.GET}, lambda _r: Response(200), prefix=True),
        Route("post", "/a", {Method.POST}, lambda _r: Response(200), max_body=1000),
    )
    server = serve(*routes, tls=identity, chunk_count=500)
    for name, (data, status) in BAD.items():
        log_lines.clear()
        with server.connect() as client:
            with contextlib.suppress(OSError):
                client.send(data)
            said = client.until_closed()
        assert said.startswith(b"HTTP/1.1 %d " % status), name
        assert b"\r\nConnection: close\r\n" in said, name
        assert b"\r\nCache-Control: no-store\r\n" in said, name
        assert said.count(b"HTTP/1.1 ") == 1 + (status == 505), name
        assert len(said) < 500, name
        eventually(lambda: len(log_lines) == 1)
        assert log_lines[0]["status"] == status
    assert server.ask(GET_CLOSE).startswith(b"HTTP/1.1 200 ")


def test_dripped_bad_requests(serve):
    """Octet by octet over a socket the verdict is the same."""
    server = serve(Route("post", "/a", {Method.POST}, lambda _r: Response(200), max_body=1000))
    for name in ("length and chunked", "two hosts", "obs-fold", "signed length", "chunk size that overflows"):
        data, status = BAD[name]
        with server.connect() as client:
            with contextlib.suppress(OSError):
                for at in range(len(data)):
                    client.send(data[at : at + 1])
            assert client.until_closed().startswith(b"HTTP/1.1 %d " % status), name


def test_body_limit_is_the_routes_own(serve, identity):
    server = serve(
        Route("small", "/small", {Method.POST}, lambda r: Response(200, r.body), max_body=10),
        Route("large", "/large", {Method.POST}, lambda r: Response(200, r.body), max_body=200_000),
        Route("none", "/none", {Method.GET}, lambda _r: Response(200)),
        tls=identity,
    )
    with server.connect() as client:
        client.send(post(b"x" * 10, b"/small") + post(b"y" * 200_000, b"/large"))
        assert client.answer()[2] == b"x" * 10
        assert client.answer()[2] == b"y" * 200_000
        client.send(b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n")
        assert client.answer()[0] == 413  # although not one octet of the body was sent
        assert client.until_closed() == b""
    with server.connect() as client:
        client.send(b"GET /none HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nz")
        assert client.answer()[0] == 413


def test_client_that_sends_on_can_read_the_refusal(serve, identity):
    """Octets of a refused body still under way do not reset the connection before the answer is read."""
    server = serve(tls=identity)
    with server.connect() as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n")
        with contextlib.suppress(OSError):
            for _ in range(10):
                client.send(b"x" * 40_000)
                time.sleep(0.01)
        assert client.answer()[0] == 413


def test_slow_sender_is_told_408(serve, identity):
    """One deadline for the whole request: dribbling octets does not extend it."""
    server = serve(tls=identity, request_seconds=0.4)
    with server.connect() as client:
        started = time.monotonic()
        stop = threading.Event()

        def dribble() -> None:
            for octet in GET[:-1] * 100:
                if stop.wait(0.03):
                    return
                with contextlib.suppress(OSError):
                    client.send(bytes([octet]))

        thread = threading.Thread(target=dribble)
        thread.start()
        try:
            said = client.until_closed()
        finally:
            stop.set()
            thread.join()
    assert said.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - started > 0.35  # and while octets still came: they would last two minutes
    assert server.factory.metrics.limit_count(LimitHit.REQUEST_TIME) == 1


@pytest.mark.parametrize("begun", [GET[:10], b"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"])
def test_each_request_of_a_kept_connection_has_its_deadline(serve, begun):
    """Also one that begins while the one before is still worked on; silence between them is another matter."""
    waiting: list[Deferred[Response]] = []

    def wait(_request):
        waiting.append(Deferred())
        return waiting[-1]

    up = Route("up", "/up", {Method.POST}, lambda _request: Response(200), max_body=10)
    server = serve(on(hello), on(wait, "/wait"), up, request_seconds=0.3, idle_seconds=3600)
    with server.connect() as client:
        client.send(GET)  # known from then on
        assert client.answer()[0] == 200
        client.send(GET)
        assert client.answer()[0] == 200
        assert client.silent_for(0.6)
        client.send(begun)
        assert client.until_closed().startswith(b"HTTP/1.1 408 ")
    with server.connect() as client:
        client.send(get(b"/wait"))
        eventually(lambda: bool(waiting))
        client.send(begun)
        assert client.silent_for(0.6), "it is told in its turn"
        reactor.callFromThread(waiting.pop().callback, Response(202))
        assert [client.answer()[0], client.answer()[0]] == [202, 408]


def test_slow_body_is_told_408(serve):
    server = serve(request_seconds=0.3)
    with server.connect() as client:
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhel")
        assert client.answer()[0] == 408


def test_silent_client_and_unfinished_handshake_are_cut(serve, identity):
    server = serve(tls=identity, request_seconds=0.3)
    with socket.create_connection(("127.0.0.1", server.number)) as silent:
        silent.settimeout(30)
        with contextlib.suppress(ConnectionResetError):  # an unfinished handshake is cut, not closed
            assert silent.recv(10) == b""


def test_idle_connection_is_closed_quietly(serve, identity):
    server = serve(tls=identity, idle_seconds=1.0, request_seconds=5)
    with server.connect() as client:
        for _ in range(3):
            client.send(GET)
            assert client.answer()[0] == 200
            time.sleep(0.4)
        assert client.until_closed() == b""
    assert server.factory.metrics.limit_count(LimitHit.IDLE_TIME) == 1


def test_idle_time_does_not_run_while_a_handler_works(serve):
    async def slow(_request):
        done = Deferred()
        reactor.callLater(0.6, done.callback, None)
        await done
        return Response(200, b"late")

    server = serve(Route("slow", "/a", {Method.GET}, slow), idle_seconds=0.2, request_seconds=0.2)
    with server.connect() as client:
        client.send(GET)
        assert client.answer()[2] == b"late"


def test_a_handler_that_takes_too_long_is_cancelled(serve):
    cancelled = []

    async def stuck(_request):
        waiting = Deferred(cancelled.append)
        await waiting
        return Response(200)

    server = serve(Route("stuck", "/a", {Method.GET}, stuck), handler_seconds=0.2)
    with server.connect() as client:
        client.send(GET)
        status, headers, _ = client.answer()
    assert status == 503
    assert headers["retry-after"] == "2"
    assert cancelled
    assert server.factory.metrics.limit_count(LimitHit.HANDLER_TIME) == 1


def test_running_limit_answers_503_and_leaves_quick_routes_alone(serve):
    gate = Deferred()

    async def wait(_request):
        await gate
        return Response(200, b"done")

    routes = (Route("wait", "/wait", {Method.GET}, wait), *ROUTES)
    server = serve(*routes, running=2)
    ask = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"
    clients = [server.connect() for _ in range(3)]
    for client in clients[:2]:
        client.send(ask)
    eventually(lambda: server.factory.metrics.running == 2)
    clients[2].send(ask + GET)
    status, headers, _ = clients[2].answer()
    assert (status, headers["retry-after"]) == (503, "2")
    assert clients[2].answer()[0] == 200
    reactor.callFromThread(gate.callback, None)
    for client in clients[:2]:
        assert client.answer()[2] == b"done"
        client.sock.close()
    clients[2].sock.close()
    eventually(lambda: server.factory.metrics.running == 0)


def test_pipelining_depth_stops_reading(serve):
    """No more requests are begun than the depth says, however many are sent; all are answered in the end."""
    waiting = []

    def wait(request):
        done = Deferred()
        waiting.append((request, done))
        return done

    server = serve(Route("wait", "/w/", {Method.GET}, wait, prefix=True), pipelining_depth=4)
    with server.connect() as client:
        client.send(b"".join(b"GET /w/%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(50)))
        eventually(lambda: len(waiting) == 4)
        time.sleep(0.2)
        assert len(waiting) == 4
        for number in range(50):
            eventually(lambda: len(waiting) > number)  # noqa: B023 -- called at once
            request, done = waiting[number]
            reactor.callFromThread(done.callback, Response(200, request.tail.encode()))
            assert client.answer()[2] == b"%d" % number


def test_a_connection_is_closed_after_as_many_requests_as_it_may_have(serve):
    server = serve(requests_per_connection=3)
    with server.connect() as client:
        client.send(GET * 5)
        heads = [client.answer()[1].get("connection") for _ in range(3)]
        assert heads == [None, None, "close"]
        assert client.until_closed() == b""


def test_connections_beyond_the_limit_are_turned_away(serve, identity):
    server = serve(tls=identity, connections=3)
    held = [server.connect() for _ in range(3)]
    eventually(lambda: server.factory.open_connections == 3)
    if identity is None:
        assert server.ask(GET).startswith(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\n")
    else:
        with pytest.raises((ConnectionError, ssl.SSLError)):  # cut before the handshake costs anything
            server.connect()
    held.pop().sock.close()
    eventually(lambda: server.factory.open_connections == 2)
    assert server.ask(GET_CLOSE).startswith(b"HTTP/1.1 200 ")
    assert server.factory.metrics.limit_count(LimitHit.CONNECTIONS) == 1
    for client in held:
        client.sock.close()


def test_connections_of_one_address_beyond_its_limit_are_turned_away(serve):
    server = serve(connections_per_address=2)
    with server.connect(), server.connect():
        eventually(lambda: server.factory.open_connections == 2)
        assert server.ask(GET).startswith(b"HTTP/1.1 503 ")
        assert server.factory.metrics.limit_count(LimitHit.CONNECTIONS_PER_ADDRESS) == 1
    eventually(lambda: server.factory.open_connections == 0)
    assert server.ask(GET_CLOSE).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("local", "local"),
    ],
)
def test_ipv6_addresses_of_one_network_count_as_one(address, key):
    assert address_key(address) == key


def test_client_that_reads_nothing_is_cut(serve):
    """Answers are made only as fast as they are taken: memory stays bounded, and who takes nothing is cut."""
    made = []

    def large(_request):
        made.append(1)
        return Response(200, b"x" * 1_000_000)

    server = serve(Route("large", "/a", {Method.GET}, large), write_stall_seconds=0.5)
    with server.connect(receive_buffer=4096) as client:
        client.send(GET * 100)
        eventually(lambda: server.factory.metrics.limit_count(LimitHit.WRITE_STALL) == 1)
        assert len(made) < 10
    eventually(lambda: server.factory.open_connections == 0)


def test_slow_reader_gets_everything(serve, identity):
    body = bytes(range(256)) * 8000
    server = serve(Route("large", "/a", {Method.GET}, lambda _r: Response(200, body)), tls=identity)
    with server.connect(receive_buffer=4096) as client:
        client.send(GET * 3 + GET_CLOSE)
        for _ in range(4):
            time.sleep(0.05)
            assert client.answer()[2] == body
        assert client.until_closed() == b""


def test_limits_are_checked():
    with pytest.raises(ValueError, match="header_bytes must be above zero"):
        WebLimits(header_bytes=0)


def test_a_flood_of_stuck_clients_starves_nobody(serve):
    server = serve(connections_per_address=500)
    stuck = []
    for number in range(100):
        client = server.connect()
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nX: %d" % number)
        stuck.append(client)
    assert server.ask(GET_CLOSE).startswith(b"HTTP/1.1 200 ")
    for client in stuck:
        client.sock.close()
