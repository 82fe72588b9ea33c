"""How a field's Python type appears in TOML: shared by reading and writing."""

from __future__ import annotations

import enum
import ipaddress
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path

import attrs

from pkiserver.foundation.durations import ALLOWED as ALLOWED_DURATION
from pkiserver.foundation.durations import parse_duration

ADDRESSES: tuple[type, ...] = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
)
ARRAYS: tuple[type, ...] = (tuple, frozenset, list)
PLAIN: Mapping[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    date: "a date such as 2030-01-31",
    datetime: "a date and time with an offset, such as 2030-01-31T12:00:00Z",
}


@attrs.frozen
class Field:
    """One field of an attrs class as a key of its table."""

    name: str
    key: str
    type: object
    required: bool
    attribute: attrs.Attribute[object]

    @property
    def comment(self) -> str | None:
        """What :func:`dump` writes above the key."""
        text = self.attribute.metadata.get("comment")
        return text if isinstance(text, str) else None

    def default(self) -> object:
        """The default value; only for a field that is not required."""
        default = self.attribute.default
        # attrs.Factory is a class at run time and a function to mypy
        factory: Callable[[], object] | None = getattr(default, "factory", None)
        return default if factory is None else factory()


@cache
def fields(kind: type) -> tuple[Field, ...]:
    """The fields of an attrs class that its constructor takes, types resolved."""
    hints = typing.get_type_hints(kind)
    return tuple(
        Field(
            a.name,
            str(a.metadata.get("key", a.alias)),
            hints[a.name],
            a.default is attrs.NOTHING,
            a,
        )
        for a in attrs.fields(kind)
        if a.init
    )


def union_members(kind: object) -> tuple[object, ...]:
    """The members of a union without ``None``; the type itself when it is none."""
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        return tuple(member for member in typing.get_args(kind) if member is not types.NoneType)
    return (kind,)


def literal_values(kind: object) -> tuple[object, ...] | None:
    """The values of a ``Literal``, or None."""
    return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else None


def array_of(kind: object) -> tuple[type, object] | None:
    """For ``tuple[T, ...]`` and its like: how to build it and T."""
    origin = typing.get_origin(kind)
    if origin not in ARRAYS:
        return None
    return origin, typing.get_args(kind)[0]


def table_of(kind: object) -> object | None:
    """For ``Mapping[str, T]``: T."""
    origin = typing.get_origin(kind)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        member: object = typing.get_args(kind)[1]
        return member
    return None


def attrs_class(kind: object) -> type | None:
    """The type as an attrs class, or None."""
    return kind if isinstance(kind, type) and attrs.has(kind) and text_parser(kind) is None else None


def text_parser(kind: object) -> tuple[Callable[[str], object], str] | None:
    """For a type written as a TOML string: how it is read, and what is allowed, in words."""
    if not isinstance(kind, type):
        return None
    if issubclass(kind, timedelta):
        return parse_duration, ALLOWED_DURATION
    if issubclass(kind, Path):
        return kind, "a path as a string"
    if kind in ADDRESSES:
        return kind, f"an {kind.__name__.replace('v4', 'v4 ').replace('v6', 'v6 ').lower().replace('ip', 'IP')}"
    parse = getattr(kind, "parse", None)
    if callable(parse):
        allowed = getattr(kind, "ALLOWED", None)
        return parse, allowed if isinstance(allowed, str) else f"a string that names {kind.__name__}"
    return None


def enum_class(kind: object) -> type[enum.Enum] | None:
    """The type as an enum class, or None."""
    return kind if isinstance(kind, type) and issubclass(kind, enum.Enum) else None


def spell(value: object) -> str:
    """A value as it would stand in TOML, for messages."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    return str(value)


def describe(kind: object) -> str:
    """What may stand where this type is expected, in words."""
    members = union_members(kind)
    if len(members) > 1:
        return " or ".join(dict.fromkeys(describe(member) for member in members))
    kind = members[0]
    if (values := literal_values(kind)) is not None:
        return ", ".join(spell(value) for value in values)
    if (members_of := enum_class(kind)) is not None:
        return ", ".join(spell(member.value) for member in members_of)
    if (parser := text_parser(kind)) is not None:
        return parser[1]
    if (array := array_of(kind)) is not None:
        return f"an array of: {describe(array[1])}"
    if table_of(kind) is not None or attrs_class(kind) is not None:
        return "a table"
    return PLAIN.get(typing.cast("type", kind), str(kind))
