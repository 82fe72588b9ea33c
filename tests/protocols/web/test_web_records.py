"""What is left of a request: access log, problem log, metrics, and what no log may show."""

from __future__ import annotations

import json

from prometheus_client import CollectorRegistry, generate_latest

from protocols.web.limits import AccessLog
from protocols.web.values import Method, Response, Route
from tests.protocols.web.conftest import GET_CLOSE, eventually, get, hello, on


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
