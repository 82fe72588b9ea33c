"""Patterns: what they match, that they agree with Python's re, and that no pattern can be made slow."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkiserver.authority.templates.patterns import Pattern
from tests.support.work import counted_work


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "WWW.Example.COM", True),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", "example.com", False),
        ("**.example.com", "a.b.example.com", True),
        ("*.example.com", "www.example.com.evil.org", False),
        ("web??.example.com", "web01.example.com", True),
        ("web??.example.com", "web1.example.com", False),
        (r"\*.example.com", "*.example.com", True),
        (r"\*.example.com", "x.example.com", False),
        ("re:[a-z]+[0-9]{2}\\.example\\.com", "web01.example.com", True),
        ("re:[A-Z]+\\.example\\.com", "web.example.com", True),
        ("re:[^.]+\\.(com|org)", "a.org", True),
        ("re:a.*", "xa", False),
    ],
)
def test_host_patterns_are_anchored_and_keep_to_labels(pattern: str, value: str, expected: bool) -> None:
    assert Pattern(pattern, separators=".", ignore_case=True).matches(value) is expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "re:(a",
        "re:a)",
        "re:[a",
        "re:a**",
        "re:a{2",
        "re:a{3,2}",
        "re:a{1000}",
        "re:^a$",
        r"re:\1",
        "re:*",
        "a\\",
        "re:" + "(" * 20 + "a" + ")" * 20,
        "re:((a{200}){200}){200}",
        "x" * 600,
    ],
)
def test_what_is_outside_the_subset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Pattern(text)


@pytest.mark.parametrize("pattern", ["re:(a*)*b", "re:(a|a)*b", "re:(a|aa)+b", "re:a*a*a*a*a*a*a*b", "**a**a**a**a**b"])
def test_patterns_that_ruin_a_backtracking_engine_take_linear_time(pattern: str) -> None:
    matcher = Pattern(pattern)
    calls = []
    for length in (2500, 5000):
        with counted_work() as work:
            assert not matcher.matches("a" * length + "c")
        calls.append(work.calls)
    assert calls[1] < 2.2 * calls[0] + 100


_ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\d", "(a|b)", "(?:ab|c)", "1"])
_REGEX = st.lists(st.tuples(_ATOMS, st.sampled_from(["", "*", "+", "?", "{2}", "{1,2}", "{1,}"])), max_size=6).map(
    lambda parts: "".join(atom + quantifier for atom, quantifier in parts)
)


@settings(max_examples=300)
@given(_REGEX, st.text("abc1", max_size=8))
def test_the_subset_means_what_it_means_in_python(regex: str, value: str) -> None:
    assert Pattern("re:" + regex).matches(value) == (re.fullmatch(regex, value, re.DOTALL) is not None)


@settings(max_examples=300)
@given(_REGEX, st.text("abc1", max_size=8))
def test_the_first_group_stands_for_what_it_does_in_python(regex: str, value: str) -> None:
    pattern, found = Pattern("re:" + regex), re.fullmatch(regex, value, re.DOTALL)
    assert pattern.has_group == ("(a|b)" in regex)
    if found is not None and pattern.has_group:
        assert pattern.group(value) == found.group(1)


@pytest.mark.parametrize(
    ("pattern", "value", "group"),
    [
        (r"re:.*SN:(\d+)", "PID:router SN:4711", "4711"),
        ("re:CN=([^,]+),.*", "CN=alice,O=Example", "alice"),
        ("re:(a|ab)(?:c|bcd)?d*", "abcd", "a"),
        ("re:(?:x|(y))+", "yx", "y"),
        ("re:(a)?b", "b", None),
    ],
)
def test_a_group_is_taken_out(pattern: str, value: str, group: str | None) -> None:
    assert Pattern(pattern).group(value) == group


@given(st.text(max_size=30))
def test_any_text_can_be_matched(value: str) -> None:
    assert Pattern("**").matches(value)
    assert Pattern("re:.*").matches(value)
