"""What clients get when a handler fails: the errors' own status, a problem, an ID to ask by, and nothing of ours."""

from __future__ import annotations

import pytest

from pkiserver.foundation.errors import Defect, Reason, Refusal, Rejected, Unavailable
from protocols.web.values import Response
from tests.protocols.web.conftest import GET, ROUTES, get, on


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
        (Unavailable("too many at once", retry_after=7, public=True), (503, b"too many at once\n")),
        # what names hosts, paths and keys is for the log
        (Unavailable("pin-file /etc/pin is gone", retry_after=7), (503, b"not available now: try again later\n")),
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
