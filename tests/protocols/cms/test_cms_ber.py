"""The bounded BER reader: DER passes through unchanged, BER becomes DER, nothing hostile costs more than its size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkiserver.foundation.errors import Refusal, Rejected
from protocols.cms.ber import BerLimits, children, header, is_der, rewritten, to_der
from tests.support.work import counted_work

PRIMITIVE = st.tuples(st.sampled_from([0x02, 0x04, 0x0C, 0x80, 0x9E]), st.binary(max_size=300))


def der_trees() -> st.SearchStrategy[object]:
    return st.recursive(
        PRIMITIVE,
        lambda inner: st.tuples(st.sampled_from([0x30, 0x31, 0xA0, 0xA3]), st.lists(inner, max_size=4)),
        max_leaves=12,
    )


def encode_der(tree: object) -> bytes:
    tag, value = tree
    content = value if isinstance(value, bytes) else b"".join(encode_der(item) for item in value)
    return header(bytes((tag,)), len(content)) + content


def encode_ber(tree: object, step: int) -> bytes:
    """The same tree with indefinite lengths, long lengths and octet strings in segments of ``step`` octets."""
    tag, value = tree
    if isinstance(value, bytes):
        if tag == 0x04:
            pieces = [value[i : i + step] for i in range(0, len(value), step)]
            return b"\x24\x80" + b"".join(header(b"\x04", len(p)) + p for p in pieces) + b"\x00\x00"
        return bytes((tag, 0x84)) + len(value).to_bytes(4, "big") + value
    return bytes((tag, 0x80)) + b"".join(encode_ber(item, step) for item in value) + b"\x00\x00"


@given(der_trees())
def test_der_comes_out_byte_for_byte(tree: object) -> None:
    der = encode_der(tree)
    assert to_der(der) == der


@given(der_trees(), st.data())
def test_what_is_taken_for_der_is_what_rewriting_would_make_of_it(tree: object, data: st.DataObject) -> None:
    """One octet is changed: a tag, a length, a flag."""
    der = bytearray(encode_der(tree))
    assert is_der(bytes(der))
    der[data.draw(st.integers(0, len(der) - 1))] = data.draw(
        st.sampled_from([0, 1, 0x1F, 0x24, 0x30, 0x80, 0x81, 0x82, 0xFF])
    )
    changed = bytes(der)
    if is_der(changed):
        assert rewritten(changed) == changed


@pytest.mark.parametrize(
    "octets",
    [
        "3003010101",
        "30810101ff",
        "308200030101ff",
        "2403040100",
        "3080010100 0000",
        "04810100",
        "0101ff00",
        "30020500 00",
    ],
)
def test_what_is_not_der_is_rewritten_or_refused(octets: str) -> None:
    assert not is_der(bytes.fromhex(octets))


@given(st.integers(1, 50))
def test_both_ways_have_the_same_limits(size: int) -> None:
    nested, flat = b"", header(b"\x30", 2 * size) + b"\x05\x00" * size
    for _ in range(size):
        nested = header(b"\x30", len(nested)) + nested
    for data, limits in (
        (nested, BerLimits(depth=size)),
        (nested, BerLimits(depth=max(1, size - 1))),
        (flat, BerLimits(elements=size + 1)),
        (flat, BerLimits(elements=size)),
    ):
        within = limits in (BerLimits(depth=size), BerLimits(elements=size + 1)) or size == 1 == limits.depth
        assert is_der(data, limits) is within
        if within:
            assert rewritten(data, limits) == data
        else:
            with pytest.raises(Rejected) as refused:
                to_der(data, limits)
            assert refused.value.has(Refusal.LIMIT)


@given(der_trees(), st.integers(1, 50))
def test_ber_becomes_the_same_der(tree: object, step: int) -> None:
    assert to_der(encode_ber(tree, step)) == encode_der(tree)


@given(st.binary(max_size=400))
def test_any_octets_end_in_der_or_a_refusal(data: bytes) -> None:
    try:
        der = to_der(data)
    except Rejected:
        return
    assert to_der(der) == der


@given(der_trees(), st.integers(1, 20), st.data())
def test_every_truncation_is_refused(tree: object, step: int, data: st.DataObject) -> None:
    ber = encode_ber(tree, step)
    cut = data.draw(st.integers(0, len(ber) - 1))
    with pytest.raises(Rejected):
        to_der(ber[:cut])


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        ("", "nothing at all"),
        ("00", "half a header"),
        ("0000", "end of contents alone"),
        ("30020500 00", "something behind the element"),
        ("3080 0500", "indefinite length that never ends"),
        ("0480 00 00", "primitive with an indefinite length"),
        ("30040000 0500", "end of contents inside a definite element"),
        ("3003020500", "child longer than its parent"),
        ("3086010000000000", "length of six octets"),
        ("30820005 0500", "length beyond the input"),
        ("1f8080808080800100", "tag without end"),
        ("1f81", "tag cut short"),
        ("2403 0c0161", "segment of another type"),
        ("2304 0301 0800", "bit string with nine unused bits"),
        ("2308 03020141 03020041", "unused bits before the last segment"),
        ("2302 0300", "empty bit-string segment"),
    ],
)
def test_hostile_octets_are_malformed(octets: str, why: str) -> None:
    with pytest.raises(Rejected) as refused:
        to_der(bytes.fromhex(octets))
    assert refused.value.has(Refusal.MALFORMED), why


def test_constructed_bit_string_and_true_are_made_der() -> None:
    assert to_der(bytes.fromhex("2380 030200aa 030203b8 0000")) == bytes.fromhex("030303aab8")
    assert to_der(bytes.fromhex("3003010101")) == bytes.fromhex("30030101ff")


@pytest.mark.parametrize("bomb", [b"\x30\x80" * 200_000, b"\x24\x80" * 200_000, b"\xa0\x80" * 400_000])
def test_nesting_bomb_is_refused_at_once(bomb: bytes) -> None:
    with counted_work() as work, pytest.raises(Rejected) as refused:
        to_der(bomb)
    assert refused.value.has(Refusal.LIMIT)
    assert work.calls < 5000


def test_element_and_size_caps() -> None:
    many = b"\x05\x00" * 30_000
    with pytest.raises(Rejected) as refused:
        to_der(header(b"\x30", len(many)) + many)
    assert refused.value.has(Refusal.LIMIT)
    with pytest.raises(Rejected) as refused:
        to_der(b"\x04\x03abc", BerLimits(octets=4))
    assert refused.value.has(Refusal.LIMIT)


def test_children_refuse_an_indefinite_length() -> None:
    assert [item.tag for item in children(bytes.fromhex("0500 0c0161"))] == [b"\x05", b"\x0c"]
    with pytest.raises(Rejected):
        list(children(bytes.fromhex("3080 0000")))
