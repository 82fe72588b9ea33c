"""How a code looks, and that people may type it as they like."""

from __future__ import annotations

import os
import re

from hypothesis import given
from hypothesis import strategies as st

from pkiserver.foundation.secret import Secret
from pkiserver.registration.codeform import ALPHABET, canonical, keyed_hash, new_code


def test_a_code_can_be_read_over_the_telephone() -> None:
    text = new_code(os.urandom).reveal_text()
    assert re.fullmatch(r"E([0-9A-HJKMNP-TV-Z]{5}-){5}[0-9A-HJKMNP-TV-Z]", text)


@given(st.binary(min_size=17, max_size=17), st.data())
def test_case_dashes_blanks_and_lookalikes_do_not_matter(octets: bytes, data: st.DataObject) -> None:
    text = new_code(lambda _: octets).reveal_text()
    typed = "".join(data.draw(st.sampled_from(_spellings(letter))) for letter in text)
    assert canonical(Secret(typed)) == canonical(Secret(text))


def _spellings(letter: str) -> list[str]:
    more = {"0": ["o", "O"], "1": ["i", "L", "l"], "V": ["u"], "-": ["", " "]}.get(letter, [])
    return [letter, letter.lower(), *more]


@given(st.text(max_size=80))
def test_whatever_is_typed_ends_in_a_code_or_nothing(text: str) -> None:
    found = canonical(Secret(text))
    assert found is None or set(found) <= set(ALPHABET)


def test_different_octets_make_different_codes_and_hashes() -> None:
    key = Secret(b"k" * 32)
    codes = {canonical(new_code(os.urandom)) for _ in range(500)}
    assert len(codes) == 500
    assert len({keyed_hash(key, code or "") for code in codes}) == 500
    assert keyed_hash(key, "E1") != keyed_hash(Secret(b"x" * 32), "E1")
