"""Answers as octets."""

from __future__ import annotations

import functools
import http
import re
from email.utils import format_datetime

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Defect
from protocols.web.values import EncodedResponse, Response

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in http.HTTPStatus
}
_BODILESS = frozenset({204, 304})
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def _head(response: Response) -> bytes:
    lines = [_STATUS_LINES.get(response.status) or f"HTTP/1.1 {response.status} \r\n".encode("ascii")]
    if response.content_type is not None:
        lines.append(_line("Content-Type", response.content_type))
    for name, value in response.headers:
        lines.append(_line(name, value))
    if response.status not in _BODILESS:
        lines.append(b"Content-Length: %d\r\n" % len(response.body))
    return b"".join(lines)


@functools.lru_cache(maxsize=1024)
def _line(name: str, value: str) -> bytes:
    # Most headers say the same in every answer, hence the cache. One that a room built from a request must not be able
    # to end the head early.
    if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
        raise Defect(f"answer header {name!r} holds octets that a header cannot carry")
    return f"{name}: {value}\r\n".encode("latin-1")


def pre_encode(response: Response) -> EncodedResponse:
    """``response`` with its head encoded once, for answers that are sent many times.

    Raises:
        Defect: a header holds what a header cannot carry.
    """
    return EncodedResponse(response.status, _head(response), b"" if response.status in _BODILESS else response.body)


def finish(
    answer: EncodedResponse, *, date: bytes, request_id: str, persistence: bytes, head_only: bool
) -> tuple[bytes, bytes]:
    """Head (with its empty line) and body to send.

    Args:
        answer: what to send.
        date: a whole ``Date`` line from :class:`DateLine`.
        request_id: for X-Request-ID.
        persistence: a whole ``Connection`` line, or nothing.
        head_only: the request was HEAD.
    """
    head = b"%b%bX-Request-ID: %b\r\n%b\r\n" % (answer.head, date, request_id.encode("ascii"), persistence)
    return head, b"" if head_only else answer.body


class DateLine:
    """The ``Date`` header line, made anew once a second (RFC 9110 section 6.6.1)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = float("-inf")
        self._line = b""

    def at(self, monotonic: float) -> bytes:
        """The line for now; ``monotonic`` is the clock's monotonic reading, which the caller has at hand."""
        if monotonic >= self._until:
            now = self._clock.now()
            self._line = f"Date: {format_datetime(now, usegmt=True)}\r\n".encode("ascii")
            # Aligned to the wall clock's seconds, so that the line is never a second behind.
            self._until = monotonic + 1.0 - now.microsecond / 1_000_000
        return self._line
