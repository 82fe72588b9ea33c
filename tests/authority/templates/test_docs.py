"""``docs/templates.md`` names every key and every value that a template may have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pkiserver.authority.templates.attributes import RULES
from pkiserver.authority.templates.model import Template
from pkiserver.authority.templates.usages import EXTENDED_USAGES
from pkiserver.foundation import tomltypes

TEXT = (Path(__file__).parents[3] / "docs" / "templates.md").read_text(encoding="utf-8")
WORDS = set(TEXT.replace("`", " ").replace("[", " ").replace("]", " ").replace(",", " ").replace(".", " ").split())


def keys(kind: type) -> Iterator[tuple[str, str]]:
    for field in tomltypes.fields(kind):
        yield kind.__name__, field.key
        for member in tomltypes.union_members(field.type):
            inner = tomltypes.array_of(member)
            nested = tomltypes.attrs_class(inner[1] if inner else member)
            if nested is not None:
                yield from keys(nested)


def values(kind: type) -> Iterator[str]:
    for field in tomltypes.fields(kind):
        for member in tomltypes.union_members(field.type):
            inner = tomltypes.array_of(member)
            single = inner[1] if inner else member
            if (members := tomltypes.enum_class(single)) is not None:
                yield from (str(each.value) for each in members)
            elif (nested := tomltypes.attrs_class(single)) is not None:
                yield from values(nested)


@pytest.mark.parametrize(("table", "key"), sorted(set(keys(Template))))
def test_every_key_is_explained(table: str, key: str) -> None:
    assert f"`{key}`" in TEXT or f"[{key}]" in TEXT or f".{key}]" in TEXT, f"{table}.{key}"


def test_every_value_is_named() -> None:
    missing = {value for value in values(Template) if value not in WORDS and not value.startswith("PSP_")}
    assert not missing


def test_attributes_with_their_bounds_and_purposes_are_listed() -> None:
    joined = " ".join(TEXT.split())
    for attribute, rule in RULES.items():
        assert f"`{attribute}` {rule.limit}" in joined, attribute
    assert set(EXTENDED_USAGES) <= WORDS
