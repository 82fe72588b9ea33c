"""The reader by table and by property; every vector whole, octet by octet, and pipelined."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.web.errors import BadRequest
from protocols.web.knownheads import ENTRIES, KnownHeads
from protocols.web.limits import WebLimits
from protocols.web.reader import RequestReader
from protocols.web.values import Head
from tests.protocols.web.vectors import BAD, GOOD
from tests.support.work import counted_work

LIMITS = WebLimits(chunk_count=500)
MAX_BODY = 1000


def admit(_head: Head) -> int:
    return MAX_BODY


def read(pieces: list[bytes], known: KnownHeads | None = None) -> tuple[list[tuple[Head, bytes]], BadRequest | None]:
    """Everything that a reader makes of ``pieces``, and the refusal that ended it."""
    reader = RequestReader(LIMITS, admit, known)
    found = []
    try:
        for piece in pieces:
            rest = piece
            while rest:
                if (whole := reader.known(rest)) is not None:
                    found.append((whole.head, b""))
                    break
                rest = reader.feed(rest)
                if reader.complete:
                    found.append(reader.take())
    except BadRequest as refusal:
        return found, refusal
    return found, None


def octets(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def summary(found: list[tuple[Head, bytes]]) -> list[tuple[str, str, str, bytes]]:
    return [(head.method, head.target, head.path, body) for head, body in found]


@pytest.mark.parametrize("cut", [lambda data: [data], octets], ids=["whole", "octets"])
@pytest.mark.parametrize("name", GOOD)
def test_a_request_is_read_however_it_is_cut(name, cut):
    data, method, path, body = GOOD[name]
    found, refusal = read(cut(data))
    assert refusal is None
    assert [(head.method, head.path, got) for head, got in found] == [(method, path, body)]


@pytest.mark.parametrize("cut", [lambda data: [data], octets], ids=["whole", "octets"])
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_request_is_refused_with_its_status(name, cut):
    data, status = BAD[name]
    found, refusal = read(cut(data))
    assert not found
    assert refusal is not None
    assert refusal.status == status


@pytest.mark.parametrize("cut", [lambda data: [data], octets], ids=["whole", "octets"])
@pytest.mark.parametrize("name", BAD)
def test_bad_after_good(name, cut):
    """What stands before a bad request is read, and nothing after it."""
    data, status = BAD[name]
    before = GOOD["chunked"][0]
    found, refusal = read(cut(before + data + GOOD["get"][0]))
    assert [body for _, body in found] == [b"hello"]
    assert refusal is not None
    assert refusal.status == status


def seen() -> KnownHeads:
    """All good vectors' heads, as after a day of serving."""
    known = KnownHeads()
    for data, *_ in GOOD.values():
        read([data], known)
    assert len(known) > 5
    return known


@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_heads_seen_before_change_no_verdict(name):
    data = (GOOD.get(name) or BAD[name])[0]
    known = seen()
    for _ in range(2):
        found, refusal = read([data], known)
        fresh, verdict = read([data])
        assert summary(found) == summary(fresh)
        assert (refusal and refusal.status) == (verdict and verdict.status)


def test_a_head_seen_before_is_not_parsed_again():
    known = KnownHeads()
    data = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n%b"
    found, _ = read([data % b"hello", data % b"world" + data % b"again", *octets(data % b"parts")], known)
    assert [body for _, body in found] == [b"hello", b"world", b"again", b"parts"]
    heads = [head for head, _ in found]
    assert heads[0] is heads[1] is heads[2]
    assert heads[3] is not heads[0]  # it came in pieces


def test_a_whole_request_seen_before_needs_no_reading():
    known = KnownHeads()
    reader = RequestReader(LIMITS, admit, known)
    data = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
    assert reader.known(data) is None
    assert reader.feed(data) == b""
    head, _ = reader.take()
    found = reader.known(data)
    assert found is not None
    assert found.head is head
    assert reader.known(data + data) is None  # two of them
    assert reader.feed(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n") == b""
    assert reader.known(data) is None  # it stands in the body of another one


def test_an_empty_line_before_each_of_two_known_requests_is_skipped():
    data = b"\r\nGET /a HTTP/1.1\r\nHost: x\r\n\r\n"
    found, refusal = read([data, b"\r\n", data[2:], b"\r\n", data[2:], data], KnownHeads())
    assert refusal is None
    assert len(found) == 4


def test_a_head_seen_before_is_admitted_anew():
    known, limits = KnownHeads(), iter((10, 4))
    reader = RequestReader(LIMITS, lambda _head: next(limits), known)
    data = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    assert reader.feed(reader.feed(data)) == b""
    assert reader.take()[1] == b"hello"
    with pytest.raises(BadRequest) as refused:
        reader.feed(data)
    assert refused.value.status == 413


@pytest.mark.parametrize("field", [b"Authorization: Basic YTpi", b"cookie: a=b", b"Proxy-Authorization: Basic YTpi"])
def test_heads_with_secrets_are_forgotten(field):
    known = KnownHeads()
    found, _ = read([b"GET /a HTTP/1.1\r\nHost: x\r\n%b\r\n\r\n" % field], known)
    assert len(found) == 1
    assert len(known) == 0


def test_strangers_cannot_fill_the_memory():
    known = KnownHeads()
    read([b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(ENTRIES + 10)], known)
    assert len(known) == ENTRIES
    read([b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 2000)], known)
    assert known.get(b"GET /0 HTTP/1.1\r\nHost: x\r\n\r\n") is None
    assert known.get(b"GET /11 HTTP/1.1\r\nHost: x\r\n\r\n") is not None


KNOWN = seen()


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(GOOD)), min_size=1, max_size=5),
    cuts=st.lists(st.integers(min_value=1, max_value=400), max_size=8),
    warm=st.booleans(),
)
def test_pipelined_in_any_pieces(names, cuts, warm):
    """How octets are cut up changes nothing; each feed ends at most one request."""
    data = b"".join(GOOD[name][0].replace(b"HTTP/1.0\r\n", b"HTTP/1.0\r\nConnection: keep-alive\r\n") for name in names)
    pieces, at = [], 0
    for cut in cuts:
        pieces.append(data[at : at + cut])
        at += cut
    pieces.append(data[at:])
    known = KNOWN if warm else None
    found, refusal = read([piece for piece in pieces if piece], known)
    assert refusal is None
    assert [(head.method, head.path, body) for head, body in found] == [GOOD[name][1:] for name in names]


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=400), prefix=st.sampled_from([b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST /"]))
def test_any_octets_mean_the_same_however_they_are_cut(data, prefix):
    """Whatever comes, it is a request, a refusal or the beginning of one; and the same octet by octet."""
    whole, refusal = read([prefix + data])
    dripped, dripped_refusal = read(octets(prefix + data))
    assert summary(whole) == summary(dripped)
    assert (refusal and refusal.status) == (dripped_refusal and dripped_refusal.status)


def test_header_limit_is_exact():
    frame = b"GET /a HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n"
    fits = frame % (b"a" * (LIMITS.header_bytes - len(frame % b"")))
    assert len(fits) == LIMITS.header_bytes
    for cut in (lambda data: [data], octets):
        assert read(cut(fits))[1] is None
        refusal = read(cut(fits.replace(b"X: ", b"XY: ")))[1]
        assert refusal is not None
        assert refusal.status == 431


def test_pipelined_heads_are_counted_one_by_one():
    one = b"GET /a HTTP/1.1\r\nHost: x\r\nX: %b\r\n\r\n" % (b"a" * 12_000)
    found, refusal = read([one * 5])
    assert refusal is None
    assert len(found) == 5


def test_dripped_header_costs_no_time():
    """llhttp's caller pays for a dripped header with the square of its length; the limit keeps that in milliseconds."""
    data = b"GET /a HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 400_000
    with counted_work() as work:
        refusal = read(octets(data))[1]
    assert refusal is not None
    assert refusal.status == 431
    assert work.calls < len(data)  # most of it was never fed to the parser


def test_body_cap_before_the_body():
    """413 is known from the head alone."""
    reader = RequestReader(LIMITS, admit)
    with pytest.raises(BadRequest) as caught:
        reader.feed(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
    assert caught.value.status == 413


def test_trailers_are_dropped_and_counted():
    reader = RequestReader(LIMITS, admit)
    rest = GOOD["trailers"][0]
    while not reader.complete:
        rest = reader.feed(rest)
    assert rest == b""
    head, body = reader.take()
    assert body == b"hello"
    assert "x" not in head.headers
    assert head.headers.get_all("host") == ("x",)
    assert reader.dropped_trailers == 2
