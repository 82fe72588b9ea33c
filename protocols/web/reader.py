"""Octets to requests: llhttp with what it leaves to its caller. No I/O, no clock.

What llhttp (through httptools) refuses by itself: obs-fold, bare CR or LF, NUL and control characters, blanks before
the colon, Content-Length that is not digits, given twice or beside Transfer-Encoding, transfer codings that do not
end in chunked, chunk sizes that overflow. What it accepts and is refused here: a lone CR or LF before the
request line, more than one blank in it, RTSP and ICE for HTTP, two Hosts or none in HTTP/1.1, Transfer-Encoding in
HTTP/1.0, transfer codings other than chunked, CONNECT, Upgrade, other HTTP versions, and
everything that is too long or too many. A header that arrives octet by octet costs llhttp's caller time that grows with
its square, therefore octets are counted before they are fed.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable

import httptools

from protocols.web.errors import BadRequest, LimitHit
from protocols.web.headers import Headers
from protocols.web.knownheads import LONGEST, KnownHead, KnownHeads
from protocols.web.limits import WebLimits
from protocols.web.values import Head

_END_OF_HEAD = b"\r\n\r\n"
_REQUEST_LINE = re.compile(rb"(?:\r\n)*[!-~]+ [!-~]+ HTTP/[0-9]\.[0-9]\r\n")
_METHOD = re.compile(rb"[\r\n]*([A-Z-]{1,32}) ")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(r"(?i:https?)://([^/?#:][^/?#]*)(/[^?]*)?(?:\?(.*))?", re.DOTALL)


class _State(enum.Enum):
    HEAD = "head"
    LENGTH = "body of known length"
    CHUNKED = "chunked body"


Admit = Callable[[Head], int]
"""Called when a head is complete: returns the octets of body that may follow, or raises BadRequest, which closes."""


class RequestReader:
    """Reads the requests of one connection.

    :meth:`feed` takes octets as they come, never beyond the end of one request, so that what a request cost is
    known exactly and a caller can stop between two pipelined requests. After an error the reader is spent.
    """

    def __init__(self, limits: WebLimits, admit: Admit, known: KnownHeads | None = None) -> None:
        self._limits = limits
        self._admit = admit
        self._known = KnownHeads() if known is None else known
        self._octets = b""
        self._begun = bytearray()
        self._blank = False
        self._parser = httptools.HttpRequestParser(self)
        self._state = _State.HEAD
        self._fed = 0
        self._tail = b""
        self._url = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._refusal: BadRequest | None = None
        self._remaining = 0
        self._received = 0
        self._max_body = 0
        self._chunks = 0
        self._trailers = 0
        self._close_asked = False
        self.dropped_trailers = 0
        """Trailer fields dropped so far; whoever counts them sets it back."""
        self.head: Head | None = None
        """The head of the request being read, or just read."""
        self.complete = False
        """A whole request has been read; call :meth:`take` before feeding more."""
        self.keep_alive = False
        """Whether the request just read leaves the connection open."""

    @property
    def started(self) -> bool:
        """Some of a request has been read, but not all of it."""
        return not self.complete and (self._fed > 0 or self.head is not None)

    @property
    def method(self) -> str:
        """The method of the request being read, known before its head is complete; "-" while it cannot be told."""
        if self.head is not None:
            return self.head.method
        match = _METHOD.match(self._begun)
        return "-" if match is None else match[1].decode("ascii")

    def known(self, data: bytes) -> KnownHead | None:
        """Their head, where these octets are a whole request without body that was read before; nothing is fed then.

        That is how nearly all requests come to whoever asks often, and it spares them all the rest of this.
        """
        if len(data) > LONGEST or self._fed or self._state is not _State.HEAD:
            return None
        found = self._known.get(data)
        if found is None or found.length:
            return None
        self._blank = False
        return found

    def feed(self, data: bytes) -> bytes:
        """Read from ``data`` up to the end of one request at most; return the octets not read.

        Raises:
            BadRequest: the request is refused; the connection must not be read any further.
        """
        if not self._fed and self._state is _State.HEAD:
            if data[:2] == b"\r\n" and not self._blank:
                # Some clients send an empty line after a body: no request has begun with it (RFC 9112 section 2.2).
                self._blank = True
                data = data[2:]
                if not data:
                    return b""
            end = data.find(_END_OF_HEAD) + 4
            self._octets = octets = data[:end] if end > 3 else b""
            known = self._known.get(octets)
            if known is not None and len(data) - end >= known.length:
                return self._read_known(known, data, end)
        piece, over = self._piece(data)
        self._parse(piece)
        if over:
            raise BadRequest(431, LimitHit.HEADER_BYTES, "the header section is too large")
        if self._state is _State.CHUNKED:
            self._check_framing()
        if self.head is None:
            self._octets = b""  # they were no head: empty lines, say
        if self.complete:
            self._remember()
            self._state = _State.HEAD
            self._tail = b""
        elif self._state is not _State.LENGTH:
            self._tail = (self._tail + piece)[-3:]
        return data[len(piece) :] if len(piece) < len(data) else b""

    def _parse(self, piece: bytes) -> None:
        self._fed += len(piece)
        if self._state is _State.HEAD:
            self._begun += piece
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            raise self._refusal or BadRequest(400, LimitHit.UPGRADE, "protocol upgrades are not supported") from None
        except httptools.HttpParserError as error:
            raise self._refusal or BadRequest(400, LimitHit.SYNTAX, f"malformed request: {error}") from None

    def _read_known(self, known: KnownHead, data: bytes, end: int) -> bytes:
        """Read a request whose head is known and whose body is there; the parser does not see it."""
        self.head = known.head
        if known.length > self._admit(known.head):
            raise too_large()
        self.complete = True
        self.keep_alive = known.keep_alive
        after = end + known.length
        self._pieces = [data[end:after]]
        return data[after:]

    def _remember(self) -> None:
        """Keep what the parser says of a head that came in one piece and tells its body's length."""
        head = self.head
        if self._octets and head is not None and self._state is not _State.CHUNKED and not head.expects_continue:
            self._known.remember(self._octets, head, length=self._received, keep_alive=self.keep_alive)

    def take(self) -> tuple[Head, bytes]:
        """The complete request's head and body; the reader is ready for the next request."""
        assert self.complete
        assert self.head is not None
        head, body = self.head, b"".join(self._pieces) if self._pieces else b""
        self.complete = self._blank = False
        self.head = None
        self._pieces = []
        if self._begun:  # the parser has read it: a known head leaves nothing else behind
            self._fed = 0
            self._begun.clear()
            self._url = b""
            self._fields = []
            self._received = self._chunks = self._trailers = 0
        return head, body

    def _piece(self, data: bytes) -> tuple[bytes, bool]:
        """What may be fed of ``data`` now, and whether that is less than the head needs."""
        if self._state is _State.LENGTH:
            self._remaining -= len(piece := data[: self._remaining])
            return piece, False
        end = self._boundary(data)
        piece = data if end in (0, len(data)) else data[:end]
        if self._state is _State.HEAD and self._fed + len(piece) > self._limits.header_bytes:
            # What still fits is fed first: the verdict on it must not depend on how the octets were cut up.
            return piece[: self._limits.header_bytes - self._fed], True
        return piece, False

    def _boundary(self, data: bytes) -> int:
        """Octets up to and with the first empty line, which may have begun in earlier octets; 0 when there is none.

        A request without body ends there, and so does a chunked one; one that stands inside a chunk does no harm.
        """
        if self._tail:
            at = (self._tail + data[:3]).find(_END_OF_HEAD)
            if at >= 0:
                return at + 4 - len(self._tail)
        at = data.find(_END_OF_HEAD)
        return at + 4 if at >= 0 else 0

    def _check_framing(self) -> None:
        if self._fed - self._received > self._limits.chunk_framing_bytes:
            raise BadRequest(400, LimitHit.CHUNK_FRAMING, "too much chunk framing")

    # What follows is called by the parser from within feed_data. An exception would come out of it as another one
    # without its cause, therefore the refusal is kept and raised again.

    def _refuse(self, refusal: BadRequest) -> BadRequest:
        self._refusal = refusal
        return refusal

    def on_url(self, url: bytes) -> None:
        """A piece of the request target."""
        if self.complete:
            raise self._refuse(BadRequest(400, LimitHit.SYNTAX, "malformed request"))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header field, or a trailer field, which is dropped and counted."""
        if self.head is not None:
            self._trailers += 1
            self.dropped_trailers += 1
            if len(self._fields) + self._trailers > self._limits.header_count:
                raise self._refuse(BadRequest(431, LimitHit.HEADER_COUNT, "too many trailer fields"))
            return
        self._fields.append((name, value))
        if len(self._fields) > self._limits.header_count:
            raise self._refuse(BadRequest(431, LimitHit.HEADER_COUNT, "too many header fields"))

    def on_headers_complete(self) -> None:
        """The head is complete: check it, and learn how much body its route takes."""
        try:
            self._on_head()
        except BadRequest as refusal:
            raise self._refuse(refusal) from None

    def on_body(self, body: bytes) -> None:
        """A piece of body."""
        self._received += len(body)
        if self._received > self._max_body:
            raise self._refuse(too_large())
        self._pieces.append(body)

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._chunks += 1
        if self._chunks > self._limits.chunk_count:
            raise self._refuse(BadRequest(400, LimitHit.CHUNK_FRAMING, "too many chunks"))

    def on_message_complete(self) -> None:
        """The request is complete."""
        self.complete = True
        self.keep_alive = self._parser.should_keep_alive() and not self._close_asked

    def _on_head(self) -> None:
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise BadRequest(505, LimitHit.VERSION, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if _REQUEST_LINE.match(self._begun) is None:
            raise BadRequest(400, LimitHit.SYNTAX, "malformed request line")
        special = _special_fields(self._fields)
        http_1_0 = version == "1.0"
        _check_host(special.get(b"host", []), http_1_0=http_1_0)
        method = self._parser.get_method().decode("ascii")
        if self._parser.should_upgrade() or method == "CONNECT" or b"upgrade" in special:
            raise BadRequest(400, LimitHit.UPGRADE, "protocol upgrades and tunnels are not supported")
        # The parser lets keep-alive win in HTTP/1.0; close goes before it (RFC 9112 section 9.3).
        self._close_asked = any(b"close" in _tokens(value) for value in special.get(b"connection", []))
        length = _length(special, http_1_0=http_1_0)
        expects = _expects_continue(special.get(b"expect", []), http_1_0=http_1_0)
        target, path, query = _split_target(self._url)
        self.head = Head(method, target, path, query, Headers(self._fields), http_1_0, expects, length != 0)
        self._max_body = self._admit(self.head)
        if length is None:
            self._state = _State.CHUNKED
            self._fed = 0
        elif length > self._max_body:
            raise too_large()
        elif length:
            self._state = _State.LENGTH
            self._remaining = length


def too_large() -> BadRequest:
    """The refusal of a body that its route does not take."""
    return BadRequest(413, LimitHit.BODY_BYTES, "the request body is too large")


_SPECIAL = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"upgrade", b"connection"})


def _special_fields(fields: list[tuple[bytes, bytes]]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        lowered = name.lower()
        if lowered in _SPECIAL:
            found.setdefault(lowered, []).append(value.strip(b" \t"))
    return found


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip(b" \t").lower() for token in value.split(b",")]


def _check_host(hosts: list[bytes], *, http_1_0: bool) -> None:
    """RFC 9112 section 3.2: exactly one, and well formed; HTTP/1.0 may leave it out."""
    if len(hosts) > 1:
        raise BadRequest(400, LimitHit.HOST, "more than one Host header")
    if not hosts and not http_1_0:
        raise BadRequest(400, LimitHit.HOST, "no Host header")
    if hosts and _HOST.fullmatch(hosts[0]) is None:
        raise BadRequest(400, LimitHit.HOST, "malformed Host header")


def _length(special: dict[bytes, list[bytes]], *, http_1_0: bool) -> int | None:
    """The body's length from the head, None for chunked (RFC 9112 section 6.3)."""
    codings = special.get(b"transfer-encoding")
    lengths = special.get(b"content-length")
    if codings is not None:
        # llhttp refuses most of these; what decides where a request ends is not left to one reader's opinion.
        if http_1_0:
            raise BadRequest(400, LimitHit.FRAMING, "Transfer-Encoding in HTTP/1.0")
        if lengths is not None:
            raise BadRequest(400, LimitHit.FRAMING, "Transfer-Encoding beside Content-Length")
        if len(codings) > 1:
            raise BadRequest(400, LimitHit.FRAMING, "more than one Transfer-Encoding header")
        if codings[0].lower() != b"chunked":
            raise BadRequest(501, LimitHit.CODING, "the only transfer coding understood is chunked")
        return None
    if lengths is None:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 19:
        raise BadRequest(400, LimitHit.FRAMING, "malformed Content-Length")
    return int(lengths[0])


def _expects_continue(expectations: list[bytes], *, http_1_0: bool) -> bool:
    """RFC 9110 section 10.1.1; HTTP/1.0 clients do not know it, theirs is ignored."""
    if not expectations or http_1_0:
        return False
    if len(expectations) > 1 or expectations[0].lower() != b"100-continue":
        raise BadRequest(417, LimitHit.EXPECTATION, "the only expectation understood is 100-continue")
    return True


def _split_target(url: bytes) -> tuple[str, str, str]:
    """Target, path and query (RFC 9112 section 3.2): origin form, absolute form, or the asterisk."""
    try:
        target = url.decode("ascii")
    except UnicodeDecodeError:
        raise BadRequest(400, LimitHit.TARGET, "malformed request target") from None
    if "#" in target:
        raise BadRequest(400, LimitHit.TARGET, "a request target has no fragment")
    if target.startswith("/"):
        path, _, query = target.partition("?")
        return target, path, query
    if target == "*":
        return target, "*", ""
    match = _ABSOLUTE.fullmatch(target)
    if match is None or _HOST.fullmatch(match[1].encode("ascii")) is None:
        raise BadRequest(400, LimitHit.TARGET, "malformed request target")
    return target, match[2] or "/", match[3] or ""
