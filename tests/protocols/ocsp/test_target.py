"""Every way in which clients put a request into a URL."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.foundation import der
from protocols.ocsp import messages, target
from protocols.ocsp.messages import MalformedRequest


def request(serial: int, filler: bytes) -> bytes:
    algorithm = der.sequence(der.object_identifier("1.3.14.3.2.26"))
    digest = (filler * 20)[:20]
    one = der.sequence(algorithm, der.octet_string(digest), der.octet_string(digest), der.integer(serial))
    return der.sequence(der.sequence(der.sequence(der.sequence(one))))


SLASHES_AND_PLUSES = request((1 << 158) - 1, b"\xff\xfb\xef\xbf")
TEXT = base64.b64encode(SLASHES_AND_PLUSES).decode()
assert "//" in TEXT
assert "+" in TEXT


def first_request(tail: str) -> bytes:
    for octets in target.candidates(tail):
        try:
            messages.decode_request(octets)
        except MalformedRequest:
            continue
        return octets
    raise MalformedRequest("none")


SPELLINGS = {
    "percent-encoded": quote(TEXT, safe=""),
    "percent-encoded in lower case": quote(TEXT, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
    "raw": TEXT,
    "only the padding encoded": TEXT.replace("=", "%3D"),
    "without padding": TEXT.rstrip("="),
    "plus turned into blank": TEXT.replace("+", "%20"),
    "URL-safe alphabet": TEXT.replace("+", "-").replace("/", "_"),
    "doubled slash in front": "/" + TEXT,
    "many slashes in front": "///" + TEXT,
    "path prefix": "issuing-ca/" + TEXT,
    "path prefix that looks like base64": "MAMA/MIM/" + TEXT,
    "encoded slash in front": "%2F" + quote(TEXT, safe=""),
}


@pytest.mark.parametrize("how", SPELLINGS)
def test_every_spelling_is_understood(how: str) -> None:
    assert first_request(SPELLINGS[how]) == SLASHES_AND_PLUSES


@settings(max_examples=200, deadline=None)
@given(
    serial=st.integers(1, (1 << 159) - 1),
    filler=st.binary(min_size=1, max_size=20),
    prefix=st.sampled_from(["", "/", "ca/", "a/b/c/"]),
    safe=st.sampled_from(["", "/", "+", "/+="]),
    padded=st.booleans(),
)
def test_any_request_survives_any_spelling(serial: int, filler: bytes, prefix: str, safe: str, padded: bool) -> None:
    octets = request(serial, filler)
    text = base64.b64encode(octets).decode()
    text = text if padded else text.rstrip("=")
    assert first_request(prefix + quote(text, safe=safe)) == octets


@pytest.mark.parametrize(
    "tail", ["", "/", "%", "%zz", "M", "MA", "M" * 5000, "M/" * 5000, "not base64 at all!", "é", "%00", TEXT[:-8]]
)
def test_what_is_no_request_is_malformed(tail: str) -> None:
    with pytest.raises(MalformedRequest):
        first_request(tail)


def test_an_overlong_target_is_not_looked_at() -> None:
    with pytest.raises(MalformedRequest, match="too long"):
        first_request("M" * (target.MAX_TARGET + 1))
