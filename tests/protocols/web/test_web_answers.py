"""What clients get: order, HEAD, 100-continue, HTTP/1.0, errors, IDs, logs, metrics, and leaving."""

from __future__ import annotations

import contextlib
import re
import subprocess

import pytest
from twisted.internet.defer import Deferred

from protocols.web.encode import pre_encode
from protocols.web.headers import Headers
from protocols.web.router import Found, NotAllowed, Router
from protocols.web.values import Method, Response, Route
from tests.protocols.web.conftest import GET, ROUTES, certificate, eventually, get, hello, on, reactor


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


def test_http_1_0_is_kept_open_only_where_it_asks_and_does_not_say_close(serve):
    server = serve()
    said = server.ask(b"GET /a HTTP/1.0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in said
    with server.connect() as client:
        for _ in range(2):
            client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert client.answer()[1]["connection"] == "keep-alive"
    for connection in (b"keep-alive, close", b"close, keep-alive", b"keep-alive\r\nConnection: Close"):
        said = server.ask(b"GET /a HTTP/1.0\r\nConnection: %b\r\n\r\n" % connection)
        assert b"\r\nConnection: close\r\n" in said  # RFC 9112 section 9.3


@pytest.mark.parametrize("broken", [b"Host: x\r\nHost: y", b"Host: x\r\n y", b"Host: x\nX: y", b"X: " + b"x" * 20_000])
@pytest.mark.parametrize("pieces", [1, 7])
def test_no_body_to_a_head_request_that_is_refused(serve, log_lines, broken, pieces):
    """RFC 9110 section 9.3.2: whatever is wrong with the request, and wherever its reading ended."""
    server = serve()
    data = b"\r\nHEAD /a HTTP/1.1\r\n" + broken + b"\r\n\r\n"
    with server.connect() as client:
        for at in range(0, len(data), -(-len(data) // pieces)):
            with contextlib.suppress(OSError):
                client.send(data[at : at + -(-len(data) // pieces)])
        said = client.until_closed()
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))
    assert body == b""
    eventually(lambda: [line["method"] for line in log_lines] == ["HEAD"])


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


def test_100_continue_comes_before_the_body(serve, identity):
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
    server = serve(on(lambda _r: waiting), *ROUTES[1:], request_seconds=0.2)
    with server.connect() as client:
        client.send(GET + b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.silent_for(0.6)  # nor is the time that this takes the client's
        reactor.callFromThread(waiting.callback, Response(200, b"first"))
        assert client.answer()[2] == b"first"
        assert client.head()[0] == 100
        client.send(b"ok")
        assert client.answer()[2] == b"ok"
        client.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.head()[0] == 100
        assert client.answer()[0] == 408  # it has had leave, and sends nothing


def test_continue_does_not_break_into_a_long_answer(serve, identity):
    """The client waits for leave to send a body while it still reads what it asked for before."""
    body = bytes(20_000_000)
    first = Deferred()
    server = serve(on(lambda _r: first), *ROUTES[1:], tls=identity)
    with server.connect() as client:
        client.send(GET + b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        eventually(lambda: server.factory.metrics.running == 1)
        reactor.callFromThread(first.callback, Response(200, body))
        status, headers = client.head()
        assert status == 200
        length = int(headers["content-length"])
        held = client.take(length)
        assert held == body
        assert client.head()[0] == 100
        client.send(b"ab")
        assert client.answer()[2] == b"ab"


def test_a_request_asked_before_is_answered_as_the_first_time(serve, identity, log_lines):
    """The edge knows the octets of what it read; all else is as it stands at that moment."""
    waiting: list[Deferred[Response]] = []

    def wait(_request):
        waiting.append(Deferred())
        return waiting[-1]

    server = serve(on(hello), on(wait, "/wait"), on(hello, "/p/", prefix=True), tls=identity, requests_per_connection=9)
    asked = (GET, GET.replace(b"GET", b"HEAD"), get(b"/p/x"), get(b"/none"), GET.replace(b"GET", b"POST"))
    for _ in range(3):
        statuses = []
        with server.connect() as client:
            for one in asked:
                client.send(one)
                statuses.append(client.answer(bodiless=one.startswith(b"HEAD"))[0])
            client.send(GET[:10])
            assert client.silent_for(0.05)
            client.send(GET[10:])
            statuses.append(client.answer()[0])
            client.send(get(b"/wait"))
            eventually(lambda: bool(waiting))
            client.send(GET)  # it waits for its turn
            assert client.silent_for(0.05)
            reactor.callFromThread(waiting.pop().callback, Response(202))
            statuses += [client.answer()[0], client.answer()[0]]
            client.send(GET)
            status, headers, body = client.answer()
            assert (status, headers["connection"], body) == (200, "close", b"hello")
            assert client.until_closed() == b""
        assert statuses == [200, 200, 200, 404, 405, 200, 202, 200]
    answered = [event for event in log_lines if "status" in event]
    assert len(answered) == 27
    assert len({event["request_id"] for event in answered}) == 27
    server.factory.replace_router(Router((on(lambda _request: Response(200, b"other")),)))
    with server.connect() as client:
        client.send(GET)
        assert client.answer()[2] == b"other"
        client.send(get(b"/p/x"))
        assert client.answer()[0] == 404


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


def test_the_longest_route_with_the_method_answers_and_no_two_claim_a_path():
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


def test_headers_are_found_without_case_and_joined():
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


def test_curl_keeps_connections_uploads_and_is_told_what_is_too_large(serve, tmp_path):
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


def test_trailers_are_counted(serve):
    server = serve()
    with server.connect() as client:
        client.send(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nA: b\r\nC: d\r\n\r\n"
        )
        assert client.answer()[2] == b"ok"
    assert server.factory.metrics.trailers_dropped == 2
