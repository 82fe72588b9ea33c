"""The limits of the HTTP listeners as an operator sets them.

They are the edge's own (:class:`protocols.web.limits.WebLimits`), which this room must not import: those worth setting,
with durations as durations. ``runtime.services`` hands them over; what is not here keeps the edge's default.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

import attrs

from pkiserver.foundation.bounds import counting, some_time

KIB = 1024


@attrs.frozen
class HttpLimits:
    """What each HTTP listener of each worker puts up with."""

    header_bytes: int = attrs.field(default=16 * KIB, validator=counting)
    """Request line and headers of one request, in bytes."""
    header_count: int = attrs.field(default=64, validator=counting)
    pipelining_depth: int = attrs.field(default=16, validator=counting)
    """Requests of one connection that may wait for their answers."""
    requests_per_connection: int = attrs.field(default=100_000, validator=counting)
    connections: int = attrs.field(default=8192, validator=counting)
    """Open connections of one listener of one worker."""
    connections_per_address: int = attrs.field(default=256, validator=counting)
    """Open connections of one IPv4 address or one IPv6 /64."""
    running: int = attrs.field(default=1024, validator=counting)
    """Requests being worked on; more are told to come again."""
    request: timedelta = attrs.field(default=timedelta(seconds=20), validator=some_time)
    """From a request's first byte to its last."""
    idle: timedelta = attrs.field(default=timedelta(seconds=60), validator=some_time)
    """How long a kept connection may be silent between requests."""
    handler: timedelta = attrs.field(default=timedelta(seconds=60), validator=some_time)
    """How long an answer may take to be made."""
    write_stall: timedelta = attrs.field(default=timedelta(seconds=60), validator=some_time)
    """How long a client may go without taking any of its answer."""
    access_log: Literal["all", "problems"] = "all"
    """Which answers get a log line: every one, or those of status 400 and above."""
