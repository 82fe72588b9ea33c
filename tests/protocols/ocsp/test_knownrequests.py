"""Requests seen before mean what decoding them means, whatever is sent."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.foundation import der
from protocols.ocsp import messages
from protocols.ocsp.knownrequests import ENTRIES, OCTETS, KnownRequests
from protocols.ocsp.messages import MalformedRequest, OcspRequest, decode_request
from tests.protocols.ocsp.test_messages import cert_id, request


def with_nonce(nonce: bytes, serial: int = 1, *, after: tuple[bytes, ...] = ()) -> bytes:
    extension = der.extension(messages.NONCE, der.octet_string(nonce))
    return request(cert_id(serial), extensions=(extension, *after))


def decoded(known: KnownRequests, octets: bytes) -> OcspRequest:
    """As the responder does it."""
    found = known.get(octets)
    if found is None:
        found = decode_request(octets)
        known.remember(octets, found)
    return found


def test_another_nonce_is_not_decoded_again():
    known = KnownRequests()
    first, other = with_nonce(b"a" * 32), with_nonce(b"b" * 32)
    known.remember(first, decode_request(first))
    found = known.get(other)
    assert found == decode_request(other)
    assert found is not None
    assert found.nonce == b"b" * 32


def test_a_nonce_that_is_not_the_end_is_decoded_each_time():
    known = KnownRequests()
    wishes = der.extension(messages.PREFERRED_ALGORITHMS, der.sequence())
    first = with_nonce(b"a" * 32, after=(wishes,))
    known.remember(first, decode_request(first))
    assert known.get(first) is None
    assert known.get(with_nonce(b"b" * 32, after=(wishes,))) is None


@pytest.mark.parametrize("length", [1, 16, 32, 127, 128])
def test_each_length_of_nonce(length):
    known = KnownRequests()
    for fill in b"xy":
        octets = with_nonce(bytes([fill]) * length)
        assert decoded(known, octets) == decode_request(octets)


SEEN = [with_nonce(b"s" * length, serial) for length in (8, 16, 32) for serial in (1, 2, 300)]


@settings(max_examples=300, deadline=None)
@given(
    base=st.sampled_from(SEEN),
    cut=st.integers(min_value=0, max_value=40),
    changes=st.lists(st.tuples(st.integers(min_value=0, max_value=200), st.integers(0, 255)), max_size=3),
    end=st.binary(max_size=40),
)
def test_nothing_is_known_that_decoding_refuses(base, cut, changes, end):
    """Whatever is cut off, changed, or put behind: the same request, or the same refusal, as without a memory."""
    known = KnownRequests()
    for octets in SEEN:
        known.remember(octets, decode_request(octets))
    sent = bytearray(base[: len(base) - cut] + end)
    for at, value in changes:
        if at < len(sent):
            sent[at] = value
    try:
        expected = decode_request(bytes(sent))
    except MalformedRequest:
        assert known.get(bytes(sent)) is None
    else:
        assert decoded(known, bytes(sent)) == expected


def test_memory_is_bounded():
    known = KnownRequests()
    one = decode_request(SEEN[0])
    for number in range(ENTRIES + 5):
        known.remember(f"target {number}", OcspRequest(one.certificates, None))
    assert known.get("target 4") is None
    assert known.get("target 5") is not None
    long = "x" * (OCTETS + 1)
    known.remember(long, OcspRequest(one.certificates, None))
    assert known.get(long) is None
