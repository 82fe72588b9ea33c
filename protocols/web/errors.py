"""Why the edge refuses a request, and which status says so."""

from __future__ import annotations

import enum

from pkiserver.foundation.errors import PkiError, Rejected, Unavailable
from protocols.web.values import Response


class LimitHit(enum.StrEnum):
    """What ended or refused a request at the edge: metric label and log field."""

    SYNTAX = "syntax"
    VERSION = "version"
    TARGET = "target"
    HOST = "host"
    FRAMING = "framing"
    CODING = "transfer-coding"
    EXPECTATION = "expectation"
    UPGRADE = "upgrade"
    HEADER_BYTES = "header-bytes"
    HEADER_COUNT = "header-count"
    BODY_BYTES = "body-bytes"
    CHUNK_FRAMING = "chunk-framing"
    NOT_FOUND = "not-found"
    METHOD = "method"
    REQUEST_TIME = "request-time"
    IDLE_TIME = "idle-time"
    HANDLER_TIME = "handler-time"
    WRITE_STALL = "write-stall"
    RUNNING = "running"
    CONNECTIONS = "connections"
    CONNECTIONS_PER_ADDRESS = "connections-per-address"
    HANDLER_ERROR = "handler-error"


class BadRequest(Exception):
    """A request that is refused before any handler sees it."""

    def __init__(
        self,
        status: int,
        limit: LimitHit,
        text: str,
        *,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(text)
        self.status = status
        self.limit = limit
        self.text = text
        self.headers = headers

    def response(self) -> Response:
        """The answer: one short line of text, never stored by a cache."""
        return plain(self.status, self.text, headers=self.headers)


def plain(status: int, text: str, *, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """A short text answer that no cache keeps."""
    return Response(
        status,
        f"{text}\n".encode(),
        content_type="text/plain; charset=utf-8",
        headers=(("Cache-Control", "no-store"), *headers),
    )


def refuse(error: PkiError) -> Response:
    """The answer for a domain error of a route that has no mapping of its own."""
    if isinstance(error, Rejected):
        return plain(400, "\n".join(reason.text for reason in error.reasons))
    if isinstance(error, Unavailable):
        return plain(503, error.shown, headers=(retry_after(error),))
    return failure()


def retry_after(error: Unavailable) -> tuple[str, str]:
    """The header that says when to come again (RFC 9110 section 10.2.3)."""
    return "Retry-After", str(error.retry_after)


def failure() -> Response:
    """The answer for what is our fault; says nothing about it (the request ID finds the log line)."""
    return plain(500, "internal error")
