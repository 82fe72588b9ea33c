"""Web servers that answer as no web server should: each is told in one line, and none takes our memory."""

from __future__ import annotations

import socket
import threading
import time
import tracemalloc
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from itertools import repeat

import pytest
from twisted.internet.threads import deferToThread

from pkiserver.outbound.addresses import Timeouts, WebAddress
from pkiserver.outbound.http import MOST_HEAD, Answer, fetch
from pkiserver.outbound.problems import OutboundError, Trouble

_TIMEOUTS = Timeouts(connect=timedelta(seconds=5), answer=timedelta(seconds=20))
OK = b"HTTP/1.1 200 OK\r\n"
MEGABYTE = 1 << 20


@contextmanager
def answering(*pieces: Iterator[bytes] | bytes) -> Iterator[WebAddress]:
    """A server that answers one request with these octets, and closes."""

    def sent() -> Generator[bytes, None, None]:
        for piece in pieces:
            if isinstance(piece, bytes):
                yield piece
            else:
                yield from piece

    octets = sent()

    def serve() -> None:
        connection, _ = listening.accept()
        with closing(connection):
            connection.recv(65536)
            try:
                for one in octets:
                    connection.sendall(one)
            except OSError:
                return  # the client has had enough
            finally:
                octets.close()

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


async def test_a_connection_whose_answer_is_not_waited_for_any_more_is_cut() -> None:
    """Else a server that trickles for ever would have the connection, and its octets our memory, for ever."""
    ended = threading.Event()

    def trickle() -> Iterator[bytes]:
        try:
            while True:
                time.sleep(0.01)
                yield bytes(1000)
        finally:
            ended.set()

    hasty = Timeouts(connect=timedelta(milliseconds=100), answer=timedelta(milliseconds=100))
    with answering(OK, b"Content-Length: 1000000000\r\n\r\n", trickle()) as address:
        with pytest.raises(OutboundError) as caught:
            await fetch(address, trust=None, timeouts=hasty, limit=1 << 30)
        assert caught.value.trouble is Trouble.SILENT
        assert await deferToThread(ended.wait, 20)
