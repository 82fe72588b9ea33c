"""Strict DER: what is written is what other encoders write, and only that is read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from asn1crypto import core
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.foundation import der


@given(st.integers(-(2**200), 2**200))
def test_integers_as_another_encoder_writes_them(value: int) -> None:
    assert der.integer(value) == core.Integer(value).dump()


@pytest.mark.parametrize("value", [0, 127, 128, -1, -128, -129, 255, 256, 2**31, 2**63])
def test_integers_at_the_edges_of_an_octet(value: int) -> None:
    assert der.integer(value) == core.Integer(value).dump()


@pytest.mark.parametrize("size", [0, 1, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000, 0x1000000])
def test_lengths_on_both_sides_of_every_form(size: int) -> None:
    encoded = der.octet_string(bytes(size))
    assert encoded == core.OctetString(bytes(size)).dump()
    assert der.whole(encoded, der.OCTET_STRING) == der.Element(der.OCTET_STRING, 0, len(encoded) - size, len(encoded))
    assert der.header(der.OCTET_STRING, size) == b"\x04" + der.length_octets(size) == encoded[: len(encoded) - size]


def test_what_is_written_reads_back_in_order() -> None:
    parts = (der.bit_string(b"bits"), der.utf8_string("Zürich"), der.explicit(2, der.NULL_DER), der.enumerated(5))
    encoded = der.sequence(*parts)
    found = der.children(encoded, der.whole(encoded))
    assert [encoded[one.start : one.end] for one in found] == list(parts)
    assert [one.tag for one in found] == [der.BIT_STRING, der.UTF8_STRING, der.context(2), der.ENUMERATED]


_HEADS = st.sampled_from(
    [b"\x30", b"\x04\x00", b"\x02\x01\x05", b"\x04\x81\x80" + bytes(128), b"\x04\x81\x05", b"\x3f\x01"]
)


@given(st.lists(_HEADS | st.binary(max_size=3), max_size=7).map(b"".join), st.integers(0, 5))
def test_where_elements_start_is_where_they_are_found(content: bytes, at_most: int) -> None:
    data = b"before" + content + b"\x05\x00after"
    ends = len(data) - 5
    try:
        found = der.children(data, der.Element(der.SEQUENCE, 0, 6, ends), at_most=at_most)
    except der.NotDer:
        with pytest.raises(der.NotDer):
            der.starts(data, 6, ends, at_most=at_most)
    else:
        assert der.starts(data, 6, ends, at_most=at_most) == [*(one.start for one in found), ends]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (b"\x30", "truncated"),
        (b"\x30\x01", "truncated"),
        (b"\x30\x82\x01", "bad length"),
        (b"\x30\x80\x00\x00", "bad length"),
        (b"\x30\x85\x00\x00\x00\x00\x01\x05", "bad length"),
        (b"\x30\x81\x01\x05", "not the shortest"),
        (b"\x30\x82\x00\x81" + bytes(0x81), "not the shortest"),
        (b"\x3f\x01\x01\x05", "high tag"),
    ],
)
def test_what_is_not_strict_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(der.NotDer, match=why):
        der.element(data)


def test_one_whole_element_and_no_more_children_than_expected() -> None:
    nulls = der.sequence(*(der.NULL_DER for _ in range(65)))
    with pytest.raises(der.NotDer, match="too many"):
        der.children(nulls, der.whole(nulls))
    assert len(der.children(nulls, der.whole(nulls), at_most=65)) == 65
    for other in (nulls + b"\0", der.octet_string(b"")):
        with pytest.raises(der.NotDer, match="not one element"):
            der.whole(other)
    with pytest.raises(der.NotDer, match="truncated"):
        der.children(b"\x30\x03\x04\x02\x00", der.Element(der.SEQUENCE, 0, 2, 5))


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=8), st.integers(0, 2), st.integers(0, 39))
def test_object_identifiers_both_ways(arcs: list[int], first: int, second: int) -> None:
    dotted = ".".join(str(arc) for arc in (first, second, *arcs))
    encoded = der.object_identifier(dotted)
    element = der.element(encoded)
    assert der.read_object_identifier(encoded[element.body : element.end]) == dotted
    if all(arc < 2**32 for arc in arcs):
        assert x509.ObjectIdentifier(dotted).dotted_string == dotted


@pytest.mark.parametrize(
    "content", [b"", b"\x80", b"\x2a\x80\x01", b"\x2a\x86", b"\x2a" * 65, b"\x2a" + b"\xff" * 19 + b"\x01"]
)
def test_object_identifiers_that_are_none(content: bytes) -> None:
    with pytest.raises(der.NotDer):
        der.read_object_identifier(content)


@given(st.binary(max_size=80))
def test_reading_never_does_anything_but_refuse(data: bytes) -> None:
    try:
        inside = der.children(data, der.element(data))
    except der.NotDer:
        return
    assert b"".join(data[one.start : one.end] for one in inside) == data[der.element(data).body : der.element(data).end]


@given(st.binary(max_size=80))
def test_object_identifiers_are_read_or_refused(content: bytes) -> None:
    try:
        dotted = der.read_object_identifier(content)
    except der.NotDer:
        return
    assert der.object_identifier(dotted) == der.tlv(der.OBJECT_IDENTIFIER, content)


@pytest.mark.parametrize("text", ["", "ü@example.org", "u" * 127, "u" * 128, "ü" * 200])
def test_a_utf8_string_is_read_whatever_its_length(text: str) -> None:
    assert der.read_utf8_string(der.utf8_string(text)) == text


@pytest.mark.parametrize("octets", [b"", b"\x0c", b"\x16\x01a", b"\x0c\x01\xff", b"\x0c\x01ab", b"\x0c\x81\x01a"])
def test_what_is_no_utf8_string_is_not_read(octets: bytes) -> None:
    with pytest.raises(der.NotDer):
        der.read_utf8_string(octets)


@pytest.mark.parametrize(
    ("year", "encoded"),
    [
        (1949, b"\x18\x0f19490101000000Z"),
        (1950, b"\x17\x0d500101000000Z"),
        (2049, b"\x17\x0d490101000000Z"),
        (2050, b"\x18\x0f20500101000000Z"),
        (900, b"\x18\x0f09000101000000Z"),
    ],
)
def test_times_change_their_form_where_certificates_do(year: int, encoded: bytes) -> None:
    assert der.time(datetime(year, 1, 1, tzinfo=UTC)) == encoded


def test_extensions_say_critical_only_where_they_are() -> None:
    value = x509.BasicConstraints(ca=True, path_length=0)
    for critical in (False, True):
        theirs = core.Sequence.load(der.extension("2.5.29.19", value.public_bytes(), critical=critical))
        assert theirs[0].native == "2.5.29.19"
        assert len(theirs) == 2 + critical
        assert theirs[-1].native == value.public_bytes()
