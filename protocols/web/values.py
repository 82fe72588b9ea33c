"""What passes between the HTTP edge and the rooms that answer: frozen values, no Twisted."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

import attrs

from pkiserver.foundation.errors import PkiError
from protocols.web.headers import Headers

if TYPE_CHECKING:
    from attrs import frozen as _value
else:
    # One is made for each request: held frozen by the type checker alone, it takes a quarter of the time.
    from attrs import define as _value


class Method(enum.StrEnum):
    """The methods that a route may have. HEAD is never declared: it is GET whose body is not sent."""

    GET = "GET"
    POST = "POST"
    PUT = "PUT"
    DELETE = "DELETE"
    PATCH = "PATCH"


@attrs.frozen
class TlsPeer:
    """What is known about the other end of a TLS connection once its handshake is done."""

    version: str
    """"TLSv1.2" or "TLSv1.3"."""
    certificate_der: bytes | None
    """The client's certificate as presented: possession of its key is proved, nothing else is verified."""
    chain: tuple[bytes, ...]
    """Further certificates that the client sent, DER, in its order, without its own."""
    finished: bytes | None
    """TLS 1.2 only: the client's Finished message, which is tls-unique (RFC 5929 section 3) as nothing is resumed."""
    exporter: bytes | None
    """TLS 1.3 only: 32 octets, label EXPORTER-Channel-Binding, empty context (RFC 9266)."""
    server_name: str | None
    """SNI as sent by the client."""


@attrs.frozen
class Peer:
    """Who is at the other end of a connection. No header is believed about this."""

    address: str
    port: int
    tls: TlsPeer | None = None


@attrs.frozen
class Head:
    """A request's line and header section, as the reader found them."""

    method: str
    target: str
    path: str
    query: str
    headers: Headers
    http_1_0: bool
    expects_continue: bool
    has_body: bool


@_value(eq=False)
class Request:
    """One complete request that kept to the limits."""

    method: str
    """As sent; a HEAD request arrives as "HEAD" at the GET handler."""
    target: str = attrs.field(repr=False)
    """The request target exactly as sent: percent-encoding, doubled slashes and all."""
    path: str
    """The target's path, raw; of an absolute-form target the part after the authority."""
    query: str = attrs.field(repr=False)
    """What follows the first question mark, raw; empty when there is none."""
    tail: str
    """What follows a prefix route's prefix in ``path``, raw; empty for an exact route."""
    headers: Headers
    body: bytes = attrs.field(repr=False)
    peer: Peer
    request_id: str
    """16 lower-case hexadecimal digits, also in the answer's X-Request-ID and in the log line."""


@attrs.frozen
class Response:
    """An answer. The edge adds Content-Length, Date, X-Request-ID and Connection."""

    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


@attrs.frozen
class EncodedResponse:
    """An answer with its head encoded, to be sent many times; made by :func:`protocols.web.encode.pre_encode`."""

    status: int
    head: bytes
    """Status line and header fields, each with its CRLF, without the empty line, Date, X-Request-ID and Connection."""
    body: bytes


Answer = Response | EncodedResponse
Handler = Callable[[Request], Answer | Awaitable[Answer]]
Refuse = Callable[[Request, PkiError], Answer]


def _absolute(_instance: object, _attribute: attrs.Attribute[str], value: str) -> None:
    if not value.startswith("/"):
        raise ValueError(f"route path {value!r} does not begin with a slash")


def _methods(value: Iterable[Method]) -> frozenset[Method]:
    return frozenset(value)


@attrs.frozen
class Route:
    """One path, exact or as a prefix, and what answers there."""

    name: str
    """For logs and metric labels: a fixed word such as "ocsp", never anything from a request."""
    path: str = attrs.field(validator=_absolute)
    """Compared octet by octet with the raw path; a prefix usually ends with a slash."""
    methods: frozenset[Method] = attrs.field(converter=_methods)
    handler: Handler
    prefix: bool = False
    max_body: int = 0
    """Octets of request body; more is answered 413 before it is read, 0 allows none."""
    refuse: Refuse | None = None
    """The room's errors as answers: called for a PkiError that left the handler."""
    quiet: bool = False
    """Good answers get no line in the access log (they still count in the metrics)."""
