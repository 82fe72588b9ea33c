"""Texts with places for values: ``$(userid)`` is a place, ``$$`` a dollar sign. Values never become syntax."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

from pkiserver.foundation.tomlfile import Invalid

_PLACE = re.compile(r"\$(?:\$|\(([a-z_]{1,32})\))")


@attrs.frozen
class Place:
    """Where a value of that name goes."""

    name: str


Part = str | Place


def split(text: str, allowed: Iterable[str]) -> tuple[Part, ...]:
    """The parts of a text.

    Raises:
        Invalid: a place has a name that is not allowed, or a dollar sign stands alone.
    """
    names = tuple(allowed)
    parts: list[Part] = []
    at = 0
    for found in _PLACE.finditer(text):
        parts.append(text[at : found.start()] + ("$" if found.group(1) is None else ""))
        if found.group(1) is not None:
            if found.group(1) not in names:
                raise Invalid(f"has no value $({found.group(1)})", allowed=_spelled(names))
            parts.append(Place(found.group(1)))
        at = found.end()
    parts.append(text[at:])
    if any(isinstance(part, str) and "$" in _PLACE.sub("", text) for part in parts):
        raise Invalid("has a dollar sign that begins no place; write $$ for one", allowed=_spelled(names))
    return tuple(part for part in parts if part != "")


def fill(parts: Iterable[Part], values: Mapping[str, str]) -> str:
    """The text with its values, as they are."""
    return "".join(part if isinstance(part, str) else values[part.name] for part in parts)


def _spelled(names: tuple[str, ...]) -> str:
    return ", ".join(f"$({name})" for name in names)
