"""Conditional requests: what caches send and what hostile clients send in the same fields."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.web.conditional import PreparedRepresentation, Representation, entity_tag, http_date, respond
from protocols.web.headers import Headers
from protocols.web.values import Method, Route

MODIFIED = datetime(2026, 11, 21, 12, 0, 0, 900_000, tzinfo=UTC)
FOUND = Representation(
    b"crl", "application/pkix-crl", MODIFIED, expires=MODIFIED + timedelta(hours=1), cache_control="max-age=3600"
)
TAG = entity_tag(b"crl")


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("If-None-Match", TAG, 304),
        ("If-None-Match", f'"x", W/{TAG}', 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", '"x"', 200),
        ("If-None-Match", "", 200),
        ("If-Modified-Since", http_date(MODIFIED), 304),
        ("If-Modified-Since", http_date(MODIFIED - timedelta(seconds=1)), 200),
        ("If-Modified-Since", "Sat, 21 Nov 2026 12:00:00 -0000", 304),
        ("If-Modified-Since", "nonsense", 200),
        ("If-Modified-Since", "Sat, 21 Nov 99999999 12:00:00 GMT", 200),
        ("If-Modified-Since", "Sat, 21 Nov 2026 12:00:00 +99999999999999999999", 200),
        ("If-Match", TAG, 200),
        ("If-Match", f'"x", {TAG}', 200),
        ("If-Match", "*", 200),
        ("If-Match", '"x"', 412),
        ("If-Match", f"W/{TAG}", 412),
        ("If-Unmodified-Since", http_date(MODIFIED), 200),
        ("If-Unmodified-Since", http_date(MODIFIED - timedelta(seconds=1)), 412),
        ("If-Unmodified-Since", "nonsense", 200),
        ("Other", "x", 200),
    ],
)
def test_validators_decide_between_200_304_and_412(name, value, status):
    headers = Headers([(name.encode(), value.encode())])
    for answer in (respond(headers, FOUND), PreparedRepresentation(FOUND).answer(headers)):
        assert answer.status == status
        assert (answer.body == b"crl") == (status == 200)
        assert answer.body == b"" or status != 304


def test_entity_tag_goes_before_the_date():
    headers = Headers([(b"If-None-Match", b'"x"'), (b"If-Modified-Since", http_date(MODIFIED).encode())])
    assert respond(headers, FOUND).status == 200
    headers = Headers([(b"If-Match", TAG.encode()), (b"If-Unmodified-Since", b"Sat, 01 Jan 2000 00:00:00 GMT")])
    assert respond(headers, FOUND).status == 200


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=255), max_size=60))
def test_any_text_as_validator(text):
    for name in (b"If-None-Match", b"If-Modified-Since", b"If-Match", b"If-Unmodified-Since"):
        assert respond(Headers([(name, text.encode("latin-1"))]), FOUND).status in (200, 304, 412)


def test_prepared_answers_over_the_wire(serve):
    prepared = PreparedRepresentation(FOUND)
    server = serve(Route("crl", "/a", {Method.GET}, lambda request: prepared.answer(request.headers)))
    with server.connect() as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        status, headers, body = client.answer()
        assert (status, body) == (200, b"crl")
        assert headers["etag"] == TAG
        assert headers["cache-control"] == "max-age=3600"
        assert headers["expires"] == "Sat, 21 Nov 2026 13:00:00 GMT"
        client.send(b"GET /a HTTP/1.1\r\nHost: x\r\nIf-None-Match: %b\r\n\r\n" % headers["etag"].encode())
        status, again, _ = client.answer()
        assert status == 304
        assert "content-length" not in again
        assert again["etag"] == TAG
