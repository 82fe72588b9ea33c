"""What clients get: order, HEAD, 100-continue, HTTP/1.0, errors, IDs, logs, metrics, and leaving."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from twisted.internet.defer import Deferred

from pkiserver.foundation.errors import Defect, Reason, Refusal, Rejected, Unavailable
from protocols.web.encode import pre_encode
from protocols.web.headers import Headers
from protocols.web.limits import AccessLog
from protocols.web.router import Found, NotAllowed, Router
from protocols.web.values import Method, Response, Route
from tests.protocols.web.conftest import ROUTES, certificate, eventually, hello, reactor

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
GET_CLOSE = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(params=["plain", "tls"])
def identity(request):
    return certificate("localhost") if request.param == "tls" else None


def on(handler, path="/a", **more):
    return Route("tested", path, {Method.GET}, handler, **more)


def get(path):
    return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path


def test_kept_connection_and_headers(serve, identity):
    server = serve(tls=identity)
    with server.connect() as client:
        seen = set()
        for _ in range(5):
            client.send(GET)
            status, headers, body = client.answer()
            assert (status, body) == (200, b"hello")
            assert headers["content-length"] == "5"
            assert "connection" not in headers
            assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", headers["date"])
            assert re.fullmatch(r"[0-9a-f]{16}", headers["x-request-id"])
            seen.add(headers["x-request-id"])
        assert len(seen) == 5


def test_http_1_0(serve):
    server = serve()
    said = server.ask(b"GET /a HTTP/1.0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in said
    with server.connect() as client:
        for _ in range(2):
            client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert client.answer()[1]["connection"] == "keep-alive"


def test_head_is_get_without_body(serve):
    server = serve(on(lambda r: Response(200, b"x" * 300_000)), on(lambda r: PRE, "/pre"))
    with server.connect() as client:
        for path in (b"/a", b"/pre"):
            client.send(b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert int(client.answer(bodiless=True)[1]["content-length"]) in (300_000, 3)
        client.send(get(b"/pre"))
        assert client.answer()[2] == b"pre"


PRE = pre_encode(Response(200, b"pre", "application/ocsp-response", (("ETag", '"1"'),)))


def test_pre_encoded_answers_are_like_others(serve):
    server = serve(
        on(lambda _r: PRE, "/pre"),
        on(lambda _r: Response(200, b"pre", "application/ocsp-response", (("ETag", '"1"'),)), "/plain"),
    )
    with server.connect() as client:
        client.send(get(b"/pre") + get(b"/plain"))
        first, second = client.answer(), client.answer()
    for answer in (first, second):
        assert answer[1].pop("x-request-id")
        assert answer[1].pop("date")
    assert first == second


def test_no_body_where_there_is_none(serve):
    server = serve(
        on(lambda _r: Response(304, b"ignored", headers=(("ETag", '"1"'),))), on(lambda _r: Response(204), "/b")
    )
    with server.connect() as client:
        client.send(GET + get(b"/b") + GET)
        for status in (304, 204, 304):
            got = client.answer()
            assert got[0] == status
            assert "content-length" not in got[1]


def test_answers_keep_the_order_of_requests(serve, identity):
    waiting = {}

    def handler(request):
        if request.tail.startswith("now"):
            return Response(200, request.tail.encode())
        waiting[request.tail] = Deferred()
        return waiting[request.tail]

    server = serve(on(handler, "/", prefix=True), tls=identity)
    with server.connect() as client:
        client.send(get(b"/one") + get(b"/now2") + get(b"/three") + get(b"/now4") + get(b"/missing?x"))
        eventually(lambda: len(waiting) == 3)
        reactor.callFromThread(waiting["three"].callback, Response(200, b"three"))
        assert client.silent_for(0.1)
        reactor.callFromThread(waiting["one"].callback, Response(200, b"one"))
        reactor.callFromThread(waiting["missing"].callback, Response(200, b"five"))
        assert [client.answer()[2] for _ in range(5)] == [b"one", b"now2", b"three", b"now4", b"five"]


def test_refusal_waits_for_earlier_answers(serve):
    waiting = Deferred()
    server = serve(on(lambda _r: waiting))
    with server.connect() as client:
        client.send(GET + b"nonsense\r\n\r\n")
        assert client.silent_for(0.1)
        reactor.callFromThread(waiting.callback, Response(200, b"first"))
        assert client.answer()[2] == b"first"
        assert client.answer()[0] == 400
        assert client.until_closed() == b""


def test_continue(serve, identity):
    server = serve(tls=identity)
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    with server.connect() as client:
        client.send(head)
        assert client.head()[0] == 100
        client.send(b"hello")
        assert client.answer()[2] == b"hello"
        client.send(head + b"hello")  # who does not wait is not told
        assert client.answer()[0] == 200
        client.send(head.replace(b" 5", b" 5000"))
        assert client.answer()[0] == 413


def test_continue_waits_its_turn(serve):
    waiting = Deferred()
    server = serve(on(lambda _r: waiting), *ROUTES[1:])
    with server.connect() as client:
        client.send(GET + b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.silent_for(0.1)
        reactor.callFromThread(waiting.callback, Response(200, b"first"))
        assert client.answer()[2] == b"first"
        assert client.head()[0] == 100
        client.send(b"ok")
        assert client.answer()[2] == b"ok"


def test_unknown_path_and_method(serve):
    server = serve()
    with server.connect() as client:
        client.send(
            get(b"/nowhere") + b"DELETE /a HTTP/1.1\r\nHost: x\r\n\r\n" + b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        assert client.answer()[0] == 404
        status, headers, _ = client.answer()
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        assert client.answer()[0] == 404
        client.send(GET)  # the connection is still good
        assert client.answer()[0] == 200
        client.send(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert client.answer()[0] == 404
        assert client.until_closed() == b""  # a body that nobody wants is not read


def test_no_file_behind_a_url(serve):
    server = serve()
    with server.connect() as client:
        for path in (b"/../etc/passwd", b"/a/../../etc/passwd", b"/%2e%2e/etc/passwd", b"//etc/passwd", b"/a%00.crl"):
            client.send(get(path))
            assert client.answer()[0] == 404


def raising(error):
    def handler(_request):
        raise error

    return handler


def raising_later(error):
    async def handler(_request):
        raise error

    return handler


@pytest.mark.parametrize("make", [raising, raising_later])
@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (Rejected([Reason(Refusal.BAD_KEY, "too short"), Reason(Refusal.BAD_NAME, "no")]), (400, b"too short\nno\n")),
        (Unavailable("the token is away", retry_after=7), (503, b"the token is away\n")),
        (Defect("secret detail"), (500, b"internal error\n")),
        (KeyError("secret detail"), (500, b"internal error\n")),
    ],
)
def test_errors_of_handlers(serve, log_lines, make, error, answer):
    status, text = answer
    server = serve(on(make(error)))
    with server.connect() as client:
        client.send(GET)
        got, headers, body = client.answer()
        assert (got, body) == (status, text)
        assert headers["cache-control"] == "no-store"
        assert headers.get("retry-after") == ("7" if status == 503 else None)
        client.send(GET)
        assert client.answer()[0] == status
    tracebacks = [event for event in log_lines if "log_failure" in event]
    assert len(tracebacks) == (2 if status == 500 else 0)
    if tracebacks:
        assert tracebacks[0]["request_id"] == headers["x-request-id"]
        assert "secret detail" in tracebacks[0]["log_failure"].getTraceback()


def test_room_maps_its_own_errors(serve):
    def refuse(_request, error):
        return Response(418, type(error).__name__.encode())

    server = serve(on(raising(Unavailable("x")), refuse=refuse), on(raising_later(Defect("x")), "/b", refuse=refuse))
    with server.connect() as client:
        client.send(GET + get(b"/b"))
        assert client.answer()[2] == b"Unavailable"
        assert client.answer()[2] == b"Defect"


@pytest.mark.parametrize(
    "answer", [None, Response(200, headers=(("X", "a\r\nSet-Cookie: b"),)), Response(200, headers=(("X Y", ""),))]
)
def test_handlers_that_answer_nonsense(serve, answer):
    async def later(_request):
        return answer

    server = serve(on(lambda _r: answer), on(later, "/b"), *ROUTES[1:])
    with server.connect() as client:
        client.send(GET + get(b"/b"))
        assert client.answer()[0] == 500
        status, headers, _ = client.answer()
        assert status == 500
        assert "set-cookie" not in headers


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


def test_log_fields_and_injection(serve, log_lines):
    server = serve(on(hello, "/", prefix=True))
    with server.connect() as client:
        client.send(get(b"/a'\"<script>%0d%0aX?secret=1") + b"DELETE /a HTTP/1.1\r\nHost: x\r\n\r\n")
        request_id = client.answer()[1]["x-request-id"]
        client.answer()
    eventually(lambda: len(log_lines) == 2)
    fields = {key: value for key, value in log_lines[0].items() if not key.startswith("log_")}
    assert fields.pop("milliseconds") >= 0
    assert fields == {
        "method": "GET",
        "path": "/a???script?%0d%0aX",
        "route": "tested",
        "status": 200,
        "sent": 5,
        "peer": "127.0.0.1",
        "request_id": request_id,
        "limit": "",
        "reason": "",
    }
    assert log_lines[1]["limit"] == "method"
    assert "secret" not in json.dumps([str(line) for line in log_lines])


def test_quiet_routes_and_problem_log(serve, log_lines):
    quiet = serve(on(hello, quiet=True))
    problems = serve(on(hello), access_log=AccessLog.PROBLEMS)
    for server in (quiet, problems):
        assert server.ask(GET_CLOSE).startswith(b"HTTP/1.1 200")
        assert server.ask(b"GET /b HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 404")
    eventually(lambda: len(log_lines) == 2)
    assert [line["status"] for line in log_lines] == [404, 404]


def test_metrics_have_bounded_labels(serve):
    server = serve()
    for number in range(5):
        server.ask(b"GET /random%d HTTP/1.0\r\n\r\n" % number)
    server.ask(GET_CLOSE)
    server.ask(b"rubbish\r\n\r\n")
    registry = CollectorRegistry()
    registry.register(server.factory.metrics)
    text = generate_latest(registry).decode()
    assert 'pkiserver_http_requests_total{route="none",status="4xx"} 6.0' in text
    assert 'pkiserver_http_requests_total{route="hello",status="2xx"} 1.0' in text
    assert 'pkiserver_http_request_seconds_count{route="hello"} 1.0' in text
    assert 'pkiserver_http_limits_total{limit="not-found"} 5.0' in text
    assert 'pkiserver_http_limits_total{limit="syntax"} 1.0' in text
    assert "random" not in text


def test_drain(serve, on_reactor):
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


def test_router():
    def route(name, path, *methods, prefix=False):
        return Route(name, path, frozenset(methods), hello, prefix=prefix)

    router = Router(
        [
            route("post", "/ocsp", Method.POST),
            route("get", "/ocsp/", Method.GET, prefix=True),
            route("deep", "/ocsp/deep/", Method.PUT, prefix=True),
            route("root", "/", Method.GET, prefix=True),
        ]
    )

    def found(method, path):
        result = router.find(method, path)
        return (result.route.name, result.tail) if isinstance(result, Found) else result

    assert found("POST", "/ocsp") == ("post", "")
    assert found("GET", "/ocsp//MFQ=%2F") == ("get", "/MFQ=%2F")
    assert found("HEAD", "/ocsp/x") == ("get", "x")
    assert found("PUT", "/ocsp/deep/x") == ("deep", "x")
    assert found("GET", "/ocsp/deep/x") == ("get", "deep/x")
    assert found("GET", "/other") == ("root", "other")
    assert found("PATCH", "/ocsp/deep/") == NotAllowed("GET, HEAD, PUT")
    assert Router([route("a", "/a", Method.GET)]).find("GET", "/b") is None
    with pytest.raises(ValueError, match="GET /a is claimed by a and by b"):
        Router([route("a", "/a", Method.GET), route("b", "/a", Method.GET)])
    with pytest.raises(ValueError, match="does not begin with a slash"):
        route("a", "a", Method.GET)


def test_headers():
    headers = Headers([(b"Accept", b" a "), (b"ACCEPT", b"b"), (b"Content-Type", b"Text/Plain; x=y"), (b"X", b"\xe9")])
    assert headers.get("accept") == "a, b"
    assert headers.get("none") is None
    assert headers.media_type() == "text/plain"
    assert headers.get("x") == "é"
    assert "ACCEPT" in headers
    assert len(headers) == 4
    assert "Text" not in repr(headers)
    assert Headers.of(Content_Type="a/b").media_type() == "a/b"
    assert Headers([(b"Content-Type", b"a/b"), (b"Content-Type", b"a/b")]).media_type() is None


def test_curl(serve, tmp_path):
    """A client that is not ours: kept connections, upload with 100-continue, chunked upload, HEAD, 413."""
    identity = certificate("localhost")
    (tmp_path / "ca.pem").write_bytes(identity.chain_pem)
    (tmp_path / "body").write_bytes(b"z" * 900)
    (tmp_path / "large").write_bytes(b"z" * 3_000_000)
    server = serve(tls=identity)
    base = f"https://localhost:{server.number}"

    def curl(*arguments):
        command = [
            "curl",
            "-sS",
            "--cacert",
            str(tmp_path / "ca.pem"),
            "--resolve",
            f"localhost:{server.number}:127.0.0.1",
        ]
        return subprocess.run([*command, *arguments], capture_output=True, check=True, timeout=20).stdout

    assert curl(f"{base}/a", f"{base}/a", "-w", "%{num_connects}") == b"hello1hello0"
    assert curl("--data-binary", f"@{tmp_path}/body", "-H", "Expect: 100-continue", f"{base}/echo") == b"z" * 900
    assert curl("--data-binary", f"@{tmp_path}/body", "-H", "Transfer-Encoding: chunked", f"{base}/echo") == b"z" * 900
    assert b"content-length: 5" in curl("-I", f"{base}/a").lower()
    assert (
        curl("-o", "/dev/null", "-w", "%{http_code}", "--data-binary", f"@{tmp_path}/large", f"{base}/echo") == b"413"
    )
    assert curl("--http1.0", f"{base}/a") == b"hello"


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
    server = serve(on(lambda _r: Response(200, body)), on(hello, "/hello"), idle_seconds=0.5)
    with server.connect() as client:
        client.send(GET)
        time.sleep(1)
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
        assert sorted(waits)[10] < 0.05


def test_trailers_are_counted(serve):
    server = serve()
    with server.connect() as client:
        client.send(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\nC: d\r\n\r\n"
        )
        assert client.answer()[2] == b"ok"
    assert server.factory.metrics.trailers_dropped == 2


def test_bodies_and_queries_stay_out_of_reprs(serve):
    shown = []
    server = serve(
        Route("echo", "/echo", {Method.POST}, lambda r: shown.append(repr(r)) or Response(200), max_body=100)
    )
    with server.connect() as client:
        client.send(
            b"POST /echo?secret1 HTTP/1.1\r\nHost: x\r\nAuthorization: secret2\r\nContent-Length: 7\r\n\r\nsecret3"
        )
        assert client.answer()[0] == 200
    assert "secret" not in shown[0]
    assert "Authorization" in shown[0]
