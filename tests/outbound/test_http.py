"""Web servers that answer as no web server should: each is told in one line, and none takes our memory."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from itertools import chain, repeat

import pytest

from pkiserver.outbound.addresses import Timeouts, WebAddress
from pkiserver.outbound.http import MOST_HEAD, Answer, fetch
from pkiserver.outbound.problems import OutboundError, Trouble

_TIMEOUTS = Timeouts(connect=timedelta(seconds=5), answer=timedelta(seconds=20))
OK = b"HTTP/1.1 200 OK\r\n"
MEGABYTE = 1 << 20


@contextmanager
def answering(*pieces: Iterator[bytes] | bytes) -> Iterator[WebAddress]:
    """A server that answers one request with these octets, and closes."""
    octets = chain.from_iterable([piece] if isinstance(piece, bytes) else piece for piece in pieces)

    def serve() -> None:
        connection, _ = listening.accept()
        with closing(connection):
            connection.recv(65536)
            try:
                for one in octets:
                    connection.sendall(one)
            except OSError:
                return  # the client has had enough

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        yield WebAddress.parse(f"http://127.0.0.1:{listening.getsockname()[1]}/list")
        thread.join(20)


async def ask(address: WebAddress, limit: int = 1000) -> Answer:
    return await fetch(address, trust=None, timeouts=_TIMEOUTS, limit=limit)


@pytest.mark.parametrize(
    ("octets", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (OK + b"Content-Length: 3\r\n\r\nhello", b"hel"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + OK + b"Content-Length: 1\r\n\r\nx", b"x"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (OK + b"Content-Length: 500\r\n\r\nhello", None),
        (OK + b"Content-Length: -5\r\n\r\nhello", None),
        (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", None),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", None),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", None),
        (OK + b"Content-Length: 1001\r\n\r\n" + bytes(1001), None),
        (b"SSH-2.0-x\r\n\r\n", None),
        (b"", None),
    ],
)
async def test_an_answer_is_whole_and_within_bounds_or_none(octets: bytes, body: bytes | None) -> None:
    with answering(octets) as address:
        if body is not None:
            assert (await ask(address)).body == body
            return
        with pytest.raises(OutboundError) as caught:
            await ask(address)
    assert caught.value.trouble is Trouble.ANSWER
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (b'ETag: "a b"', '"a b"'),
        (b"", None),
        (b"ETag: \xff\xfe", None),
        (b"ETag: a\x00b", None),
        (b"ETag: a\r\nETag: b", None),
    ],
)
async def test_a_header_is_one_printable_text_or_none(fields: bytes, found: str | None) -> None:
    with answering(OK, fields, b"\r\n" if fields else b"", b"Content-Length: 0\r\n\r\n") as address:
        assert (await ask(address)).header("ETag") == found


@pytest.mark.parametrize(
    "endless",
    [b"A: " + b"x" * 1000 + b"\r\n", b"\r\nHTTP/1.1 100 Continue\r\n"],
    ids=["fields", "interim answers"],
)
async def test_a_head_without_end_is_cut(endless: bytes) -> None:
    tracemalloc.start()
    try:
        octets = repeat(endless, 40 * MEGABYTE // len(endless))
        too_long = pytest.raises(OutboundError, match=f"more than {MOST_HEAD} octets")
        with answering(OK.replace(b"200", b"100"), octets) as address, too_long:
            await ask(address)
        assert tracemalloc.get_traced_memory()[1] < 10 * MEGABYTE
    finally:
        tracemalloc.stop()


async def test_a_long_body_after_a_short_head_is_no_long_head() -> None:
    body = bytes(3 * MEGABYTE)
    with answering(OK, b"Content-Length: %d\r\n\r\n" % len(body), body) as address:
        assert (await ask(address, limit=len(body))).body == body
