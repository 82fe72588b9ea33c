"""What a bounded dictionary lets go of."""

from __future__ import annotations

from pkiserver.foundation.bounded import keep


def test_the_first_goes_when_there_is_no_room() -> None:
    known: dict[str, int] = {}
    for number, key in enumerate("abcd"):
        keep(known, key, number, most=3)
    assert known == {"b": 1, "c": 2, "d": 3}


def test_another_value_for_what_is_known_costs_nobody_their_place() -> None:
    known = {"a": 1, "b": 2}
    keep(known, "b", 3, most=2)
    assert known == {"a": 1, "b": 3}
