"""Who leaves and who stays: clients that go, the server that drains, downloads that take long."""

from __future__ import annotations

import time

from twisted.internet.defer import Deferred

from protocols.web.values import Response
from tests.protocols.web.conftest import GET, certificate, eventually, get, hello, on, reactor


def test_leaving_client_cancels_its_handlers(serve, identity, log_lines):
    cancelled = []
    begun = []

    async def wait(_request):
        begun.append(1)
        await Deferred(cancelled.append)
        return Response(200)

    server = serve(on(wait), tls=identity)
    with server.connect() as client:
        client.send(GET * 3)
        eventually(lambda: len(begun) == 3)
    eventually(lambda: len(cancelled) == 3)
    eventually(lambda: server.factory.open_connections == 0)
    assert server.factory.metrics.cancelled == 3
    assert server.factory.metrics.running == 0
    assert not log_lines  # that a client left is nobody's failure


def test_half_closed_client_gets_what_is_answered(serve):
    body = b"x" * 2_000_000
    server = serve(on(lambda _r: Response(200, body)))
    with server.connect(receive_buffer=4096) as client:
        client.send(GET)
        client.sock.shutdown(1)
        time.sleep(0.2)
        assert client.answer()[2] == body
        assert client.until_closed() == b""


def test_draining_answers_what_runs_and_cuts_what_is_stuck(serve, on_reactor):
    """Idle connections close at once, running requests are answered, stuck ones are cut, newcomers turned away."""
    slow, stuck = Deferred(), Deferred()
    server = serve(on(lambda _r: slow), on(lambda _r: stuck, "/stuck"))
    idle, running, hanging = server.connect(), server.connect(), server.connect()
    running.send(GET)
    hanging.send(get(b"/stuck"))
    eventually(lambda: server.factory.metrics.running == 2)
    gone = []

    async def drain():
        server.factory.drain(0.6).addCallback(gone.append)

    on_reactor(drain)
    assert idle.until_closed() == b""
    assert server.ask(GET).startswith(b"HTTP/1.1 503 ")
    reactor.callFromThread(slow.callback, Response(200, b"finished"))
    status, headers, body = running.answer()
    assert (status, headers["connection"], body) == (200, "close", b"finished")
    assert running.until_closed() == b""
    assert not gone
    assert hanging.until_closed() == b""
    eventually(lambda: gone == [None])
    for client in (idle, running, hanging):
        client.sock.close()


def test_drain_waits_for_nobody_to_notice(serve, on_reactor):
    """Clients that keep a connection look at it when they want to ask again, and not before."""
    tls = serve(tls=certificate("localhost"), linger_seconds=0.1, write_stall_seconds=1000)
    plain = serve(linger_seconds=0.1, write_stall_seconds=1000)
    after_a_body = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab\r\n"  # an empty line too many
    for server in (tls, plain):
        with server.connect() as kept, server.connect() as old, server.connect() as closing:
            kept.send(GET)
            old.send(after_a_body)
            closing.send(GET.replace(b"Host", b"Connection: close\r\nHost"))
            assert [client.answer()[0] for client in (kept, old, closing)] == [200, 200, 200]

            async def drain(server=server):
                await server.factory.drain(1000)

            on_reactor(drain)
            assert [client.until_closed() for client in (kept, old, closing)] == [b"", b"", b""]


def test_an_empty_line_too_many_begins_no_request(serve):
    server = serve(request_seconds=0.3, idle_seconds=1000)
    with server.connect() as client:
        for _ in range(2):
            client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab\r\n")
            assert client.answer()[2] == b"ab"
            assert client.silent_for(0.6)


def test_drain_lets_a_slow_download_end(serve, on_reactor):
    body = bytes(range(256)) * 20_000
    server = serve(on(lambda _r: Response(200, body)))
    with server.connect(receive_buffer=4096) as client:
        client.send(GET)
        client.head()

        async def drain():
            server.factory.drain(20)

        on_reactor(drain)
        assert len(client.until_closed()) == len(body)


def test_long_download_is_not_idle(serve):
    """The connection of a client that takes long over an answer stays open for its next request."""
    body = bytes(40_000_000)  # more than the kernel's buffers hold
    server = serve(on(lambda _r: Response(200, body)), on(hello, "/hello"), idle_seconds=1.0)
    with server.connect() as client:
        client.send(GET)
        time.sleep(1.5)
        left = len(body) - client.rest_of(int(client.head()[1]["content-length"]))
        assert left == 0
        client.send(get(b"/hello"))
        assert client.answer()[0] == 200


def test_fast_download_lets_others_have_their_turn(serve):
    body = bytes(200_000_000)
    server = serve(on(lambda _r: Response(200, body)), on(hello, "/hello"))
    with server.connect() as large, server.connect() as small:
        large.send(GET)
        large.head()
        waits = []
        for _ in range(20):
            large.sock.recv(4_000_000)
            started = time.monotonic()
            small.send(get(b"/hello"))
            small.answer()
            waits.append(time.monotonic() - started)
        assert sorted(waits)[10] < 0.5
