"""Parts under one hash: the boundaries count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pkiserver.foundation.framing import framed

PARTS = st.lists(st.binary(max_size=6), max_size=4)


@given(PARTS, PARTS)
def test_different_parts_never_give_the_same_octets(one: list[bytes], other: list[bytes]) -> None:
    assert (framed(one) == framed(other)) == (one == other)


def test_the_octets_stay_what_they_are_since_stored_hashes_are_over_them() -> None:
    assert framed([]) == b""
    assert framed([b"ab", b"", b"c"]) == b"\0\0\0\x02ab\0\0\0\0\0\0\0\x01c"
