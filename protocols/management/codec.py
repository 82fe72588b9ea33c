"""Values as JSON, JSON as values, and the JSON Schema (2020-12) that says what both look like. From one source: types.

Understood are ``str int bool datetime``, enums, tuples, mappings from text, optional types, one thing or several
(``str | tuple[str, ...]``) and frozen attrs classes of these. Bounds come from :func:`text` and :func:`whole`, which
both the reader and the schema follow.
"""

from __future__ import annotations

import enum
import json
import re
import types
import typing
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import attrs

from pkiserver.foundation.errors import Reason, Refusal, Rejected

T = TypeVar("T")
Json = Any
MOST_ITEMS = 1000
MOST_TEXT = 4096
_BOUNDS = "bounds"
_DEPTH = 8
MOST_PROBLEMS = 100
"""Reasons that are told of one body: each is in the audit log as well."""
_TOLD = 64
"""Characters of a name that is none of ours."""


def text(default: Any = attrs.NOTHING, *, most: int = MOST_TEXT, least: int = 0) -> Any:
    """A field of text (or of texts) with bounds on its length in characters."""
    return attrs.field(default=default, metadata={_BOUNDS: {"minLength": least, "maxLength": most}})


def whole(default: Any = attrs.NOTHING, *, least: int = 0, most: int = 2**63 - 1) -> Any:
    """A field of a whole number with bounds."""
    return attrs.field(default=default, metadata={_BOUNDS: {"minimum": least, "maximum": most}})


def to_json(value: object) -> Json:
    """A value as JSON: times as RFC 3339 in UTC."""
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    kind: type = type(value)
    if attrs.has(kind):
        return {a.name: to_json(getattr(value, a.name)) for a in attrs.fields(kind)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def read(kind: type[T], octets: bytes) -> T:
    """A body as a value of an attrs class.

    Raises:
        Rejected: MALFORMED, one reason for each thing that is wrong, with its JSON Pointer (RFC 6901).
    """
    try:
        found = json.loads(octets.decode(), object_pairs_hook=_members, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Rejected.because(Refusal.MALFORMED, f"the body is no JSON: {error}") from error
    return _checked(kind, found)


def read_query(kind: type[T], arguments: Mapping[str, list[str]]) -> T:
    """Query parameters as a value of an attrs class of optional fields; raises as :func:`read` does."""
    hints = _hints(kind)
    found: dict[str, Json] = {}
    problems = []
    for name, values in arguments.items():
        if len(values) != 1:
            problems.append(_problem(_step("", name), "is given more than once"))
        elif name in hints and _plain(hints[name]) is int and re.fullmatch(r"-?[0-9]{1,19}", values[0]):
            found[name] = int(values[0])
        elif name in hints and _plain(hints[name]) is bool and values[0] in {"true", "false"}:
            found[name] = values[0] == "true"
        else:
            found[name] = values[0]
    if problems:
        raise Rejected(problems[:MOST_PROBLEMS])
    return _checked(kind, found)


def schema_of(kind: object, known: dict[str, Json], *, taken: bool = False) -> Json:
    """The JSON Schema of a type; those of attrs classes are put into ``known`` by name and referred to.

    ``taken``: it is read, not written, and has the bounds of :func:`read`.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        return {"anyOf": [schema_of(one, known, taken=taken) for one in arguments]}
    most: Json = {"maxItems": MOST_ITEMS} if taken else {}
    if origin is tuple:
        return {"type": "array", **most, "items": schema_of(arguments[0], known, taken=taken)}
    if origin is not None and issubclass(origin, Mapping):
        most = {"maxProperties": MOST_ITEMS} if taken else {}
        return {"type": "object", **most, "additionalProperties": schema_of(arguments[1], known, taken=taken)}
    assert isinstance(kind, type)
    if attrs.has(kind):
        if kind.__name__ not in known:
            known[kind.__name__] = {}  # in case it refers to itself
            known[kind.__name__] = _class_schema(kind, known, taken=taken)
        return {"$ref": f"#/components/schemas/{kind.__name__}"}
    if issubclass(kind, enum.Enum):
        return {"type": "string", "enum": [member.value for member in kind]}
    return {**_SIMPLE[kind], **(_TAKEN_TEXT if taken and kind is str else {})}


_TAKEN_TEXT: Json = {"maxLength": MOST_TEXT, "pattern": "^[^\\u0000]*$"}
_SIMPLE: dict[type, Json] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    datetime: {"type": "string", "format": "date-time"},
    types.NoneType: {"type": "null"},
}


def fields_of(kind: type, known: dict[str, Json], *, taken: bool) -> list[tuple[str, Json, bool]]:
    """Name, schema and whether it must be there, of each field of an attrs class."""
    hints = _hints(kind)
    found = []
    for field in attrs.fields(kind):
        schema = _bounded(schema_of(hints[field.name], known, taken=taken), field.metadata.get(_BOUNDS, {}))
        found.append((field.name, schema, field.default is attrs.NOTHING))
    return found


def _class_schema(kind: type, known: dict[str, Json], *, taken: bool) -> Json:
    fields = fields_of(kind, known, taken=taken)
    return {
        "type": "object",
        "description": " ".join((kind.__doc__ or "").split()),
        "properties": {name: schema for name, schema, _ in fields},
        "required": [name for name, _, required in fields if required],
        "additionalProperties": False,
    }


def _bounded(schema: Json, bounds: Mapping[str, int]) -> Json:
    """Bounds where they belong: at the text or number itself, inside arrays and alternatives."""
    if not bounds:
        return schema
    if "anyOf" in schema:
        return {"anyOf": [_bounded(one, bounds) for one in schema["anyOf"]]}
    if schema.get("type") == "array":
        return {**schema, "items": _bounded(schema["items"], bounds)}
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return {**schema, "additionalProperties": _bounded(schema["additionalProperties"], bounds)}
    return {**schema, **bounds} if schema.get("type") in {"string", "integer"} else schema


def _checked(kind: type[T], found: Json) -> T:
    problems: list[Reason] = []
    value = _value(kind, found, "", {}, problems)
    if problems:
        raise Rejected(problems[:MOST_PROBLEMS])
    return typing.cast("T", value)


def _value(kind: object, found: Json, place: str, bounds: Mapping[str, int], problems: list[Reason]) -> Any:  # noqa: PLR0911
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        if found is None and types.NoneType in arguments:
            return None
        return _value(_member(arguments, found), found, place, bounds, problems)
    if place.count("/") > _DEPTH:
        return problems.append(_problem(place, "is nested too deeply"))
    if origin is tuple:
        if not isinstance(found, list) or len(found) > MOST_ITEMS:
            return problems.append(_problem(place, f"is no array of at most {MOST_ITEMS} items"))
        return tuple(_value(arguments[0], one, f"{place}/{n}", bounds, problems) for n, one in enumerate(found))
    if origin is not None:
        if not isinstance(found, dict) or len(found) > MOST_ITEMS:
            return problems.append(_problem(place, "is no object"))
        for key in found:
            _check_text(key, f"the name {_told(key)!r} in {place}", bounds, problems)
        return {key: _value(arguments[1], one, _step(place, key), bounds, problems) for key, one in found.items()}
    assert isinstance(kind, type)
    if attrs.has(kind):
        return _object(kind, found, place, problems)
    return _simple(kind, found, place, bounds, problems)


def _member(kinds: tuple[object, ...], found: Json) -> object:
    """Which of several types a value is to be: the array where it is one."""
    some = [one for one in kinds if one is not types.NoneType]
    arrays = [one for one in some if typing.get_origin(one) is tuple]
    return arrays[0] if arrays and isinstance(found, list) else some[0]


def _object(kind: type, found: Json, place: str, problems: list[Reason]) -> Any:
    if not isinstance(found, dict):
        return problems.append(_problem(place, "is no object"))
    hints = _hints(kind)
    before = len(problems)
    values = {}
    for field in attrs.fields(kind):
        if field.name in found:
            bounds = field.metadata.get(_BOUNDS, {})
            values[field.name] = _value(hints[field.name], found[field.name], f"{place}/{field.name}", bounds, problems)
        elif field.default is attrs.NOTHING:
            problems.append(_problem(f"{place}/{field.name}", "is missing"))
    problems += [_problem(_step(place, name), "is not known") for name in found if name not in hints]
    return kind(**values) if len(problems) == before else None


def _simple(kind: type, found: Json, place: str, bounds: Mapping[str, int], problems: list[Reason]) -> Any:
    if issubclass(kind, enum.Enum):
        if isinstance(found, str) and found in {member.value for member in kind}:
            return kind(found)
        return problems.append(_problem(place, f"is none of {', '.join(str(member.value) for member in kind)}"))
    if kind is datetime:
        return _moment(found, place, problems)
    if not _is(kind, found):
        return problems.append(_problem(place, f"is not of type {_SIMPLE[kind]['type']}"))
    if kind is str:
        _check_text(found, place, bounds, problems)
    elif kind is int and not bounds.get("minimum", -(2**63)) <= found <= bounds.get("maximum", 2**63 - 1):
        problems.append(_problem(place, "is out of range"))
    return found


def _is(kind: type, found: Json) -> bool:
    """Whether it is of that very type; True is no number."""
    return type(found) is kind


def _check_text(found: str, place: str, bounds: Mapping[str, int], problems: list[Reason]) -> None:
    if not bounds.get("minLength", 0) <= len(found) <= bounds.get("maxLength", MOST_TEXT):
        problems.append(_problem(place, "is too short or too long"))
    if "\x00" in found:
        problems.append(_problem(place, "has a NUL"))
    if not found.isascii() and any(0xD800 <= ord(character) <= 0xDFFF for character in found):
        problems.append(_problem(place, "is no Unicode text"))


def _moment(found: Json, place: str, problems: list[Reason]) -> datetime | None:
    try:
        moment = datetime.fromisoformat(found)
    except (ValueError, TypeError):
        moment = None
    if moment is None or moment.tzinfo is None:
        problems.append(_problem(place, "is no time with its zone (RFC 3339)"))
        return None
    return moment


def _members(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names a member twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _plain(kind: object) -> object:
    """The one type of an optional one."""
    members = [one for one in typing.get_args(kind) if one is not types.NoneType]
    return members[0] if typing.get_origin(kind) in {typing.Union, types.UnionType} else kind


def _step(place: str, name: str) -> str:
    """The JSON Pointer (RFC 6901 section 3) of a member of what is at ``place``."""
    return f"{place}/{_told(name).replace('~', '~0').replace('/', '~1')}"


def _told(name: str) -> str:
    """A name that somebody sent, fit for an answer, a log and a database: not too long, and Unicode text."""
    short = name if len(name) <= _TOLD else f"{name[:_TOLD]}..."
    return short.encode("utf-8", "backslashreplace").replace(b"\0", b"\\x00").decode()


def _problem(place: str, what: str) -> Reason:
    return Reason(Refusal.MALFORMED, f"{place or 'the body'} {what}")
