"""Every limit of the HTTP edge, by name and with its unit. Nothing in this room counts against a bare number."""

from __future__ import annotations

import enum
from typing import Any

import attrs

KIB = 1024


class AccessLog(enum.StrEnum):
    """Which answers get a log line of their own."""

    ALL = "all"
    """Every answer, except the good ones of routes that are declared quiet."""
    PROBLEMS = "problems"
    """Only answers of status 400 and above, and connections that a limit ended."""


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be above zero")


@attrs.frozen
class WebLimits:
    """What one listener puts up with.

    The defaults suit a public listener that serves short requests. All durations are seconds, all sizes bytes.
    """

    header_bytes: int = attrs.field(default=16 * KIB, validator=_positive)
    """Request line and header section together, counted on what is fed to the parser, before it is fed."""
    header_count: int = attrs.field(default=64, validator=_positive)
    """Header fields in one request; trailer fields count too."""
    chunk_framing_bytes: int = attrs.field(default=16 * KIB, validator=_positive)
    """What a chunked body may spend on chunk sizes, chunk extensions and trailers, beside the body itself."""
    chunk_count: int = attrs.field(default=4096, validator=_positive)
    """Chunks in one body."""
    pipelining_depth: int = attrs.field(default=16, validator=_positive)
    """Requests of one connection that may wait for their answers; beyond it the connection is not read."""
    requests_per_connection: int = attrs.field(default=100_000, validator=_positive)
    """After so many answers a kept connection is closed, so that balancers can spread the load anew."""
    connections: int = attrs.field(default=8192, validator=_positive)
    """Open connections of the listener in one process."""
    connections_per_address: int = attrs.field(default=256, validator=_positive)
    """Open connections of one client: one IPv4 address, or one IPv6 /64."""
    running: int = attrs.field(default=1024, validator=_positive)
    """Requests of one route whose handlers are waiting, over all connections; beyond it that route answers 503."""
    request_seconds: float = attrs.field(default=20.0, validator=_positive)
    """From a request's first octet to its last, however many octets dribble in; also TLS handshake to first request."""
    idle_seconds: float = attrs.field(default=60.0, validator=_positive)
    """How long a kept connection may stay silent between requests."""
    handler_seconds: float = attrs.field(default=60.0, validator=_positive)
    """How long a handler may take; then it is cancelled and the answer is 503."""
    write_stall_seconds: float = attrs.field(default=60.0, validator=_positive)
    """How long a client may take for what one slice of an answer fills; then the connection is cut."""
    linger_seconds: float = attrs.field(default=2.0, validator=_positive)
    """How long what still arrives is thrown away after an answer that closes, so that the client can read it."""
    write_slice_bytes: int = attrs.field(default=128 * KIB, validator=_positive)
    """Longer answers are handed to the transport in slices of this size, as the client takes them."""
    sweep_seconds: float = attrs.field(default=0.5, validator=_positive)
    """How often the deadlines are looked at: their accuracy."""
    retry_after_seconds: int = attrs.field(default=2, validator=_positive)
    """Retry-After of an answer that says the server is too busy."""
    access_log: AccessLog = AccessLog.ALL
