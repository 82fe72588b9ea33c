"""From TOML text to frozen attrs values, with every problem at its line."""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import attrs

from pkiserver.foundation import tomltypes
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.tomlindex import Path as KeyPath
from pkiserver.foundation.tomlindex import TomlIndex, format_path

T = typing.TypeVar("T")
_MOST_DOTS = 4_000_000
"""The squares of each line's dots, together: 2,000 in one line, or 20 in each of 10,000; read within 0.1 s."""


@attrs.frozen
class Problem:
    """One thing wrong in a configuration text. ``line`` counts from 1; ``key`` is the dotted path, ``""`` the whole."""

    file: str
    line: int
    key: str
    message: str
    allowed: str | None = None

    def __str__(self) -> str:
        key = f" {self.key}:" if self.key else ""
        allowed = f" (allowed: {self.allowed})" if self.allowed else ""
        return f"{self.file}:{self.line}:{key} {self.message}{allowed}"


class ConfigurationError(Rejected):
    """A configuration text is wrong. Carries every problem found."""

    def __init__(self, problems: typing.Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(Reason(Refusal.CONFIGURATION, str(problem)) for problem in self.problems)


class Invalid(ValueError):
    """What a validator raises to say more: another ``key`` (dotted, within the table at hand), what is ``allowed``."""

    def __init__(self, message: str, *, key: str | None = None, allowed: str | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.allowed = allowed


class _Bad:
    """Stands for a value that could not be read; its problem is already noted."""


_BAD = _Bad()


def load_file(kind: type[T], path: Path) -> T:
    """As :func:`load`, from a file.

    Raises:
        ConfigurationError: the file cannot be read, is not UTF-8, or :func:`load` refuses it.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise ConfigurationError([Problem(str(path), 1, "", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError([Problem(str(path), line, "", "is not UTF-8")]) from error
    return load(kind, text, str(path))


def load(kind: type[T], text: str, filename: str) -> T:
    """Read a TOML text as a value of the attrs class ``kind``.

    Args:
        kind: A (frozen) attrs class; :mod:`pkiserver.foundation.tomlfile` lists the types its fields may have.
        text: The TOML text.
        filename: What problems call it.

    Raises:
        ConfigurationError: every problem found: syntax (one), unknown and missing keys, wrong types, values that an
            enum, a parser or a validator refuses.
    """
    text = without_mark(text)
    try:
        data = parse(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([_syntax_problem(str(error), text, filename)]) from error
    except RecursionError as error:
        raise ConfigurationError([Problem(filename, 1, "", "is nested too deeply")]) from error
    reader = _Reader(filename, TomlIndex(text))
    value = reader.table(kind, data, ())
    if reader.problems:
        raise ConfigurationError(sorted(reader.problems, key=lambda problem: problem.line))
    return typing.cast("T", value)


def without_mark(text: str) -> str:
    """A text without the byte order mark that some editors begin every file with, and which shows nowhere."""
    return text.removeprefix("\ufeff")


def parse(text: str) -> dict[str, typing.Any]:
    """A TOML text as plain values: the one way in, so that no two readers see different things in a text.

    Raises:
        tomllib.TOMLDecodeError: it is no TOML.
        RecursionError: it is nested too deeply; dotted keys too, whose reading takes the square of their parts.
    """
    if sum(line.count(".") ** 2 for line in text.splitlines()) > _MOST_DOTS:
        raise RecursionError
    return tomllib.loads(without_mark(text))


def _syntax_problem(message: str, text: str, filename: str) -> Problem:
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)", message)
    line = int(place[1]) if place and place[1] else text.count("\n") + 1
    return Problem(filename, line, "", f"not TOML: {message[: place.start()] if place else message}")


class _Reader:
    """Walks one document; notes problems instead of raising them."""

    def __init__(self, filename: str, index: TomlIndex) -> None:
        self.problems: list[Problem] = []
        self._filename = filename
        self._index = index

    def _bad(self, path: KeyPath, message: str, allowed: str | None = None) -> _Bad:
        self.problems.append(Problem(self._filename, self._index.line(path), format_path(path), message, allowed))
        return _BAD

    def table(self, kind: type, data: object, path: KeyPath) -> object:
        """A value of the attrs class ``kind``."""
        if not isinstance(data, dict):
            return self._bad(path, f"{_name(data)} instead of a table", "a table")
        fields = tomltypes.fields(kind)
        known = {field.key: field for field in fields}
        values: dict[str, object] = {}
        for key, item in data.items():
            if key in known:
                values[known[key].name] = self.value(known[key].type, item, (*path, key))
            else:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                values[key] = self._bad((*path, key), f"unknown key{hint}", ", ".join(sorted(known)) or "no keys")
        for field in fields:
            if field.required and field.key not in data:
                values[field.name] = self._bad((*path, field.key), "is missing", tomltypes.describe(field.type))
        checked = self._run_validators(kind, fields, values, path)
        if not checked or any(value is _BAD for value in values.values()):
            return _BAD
        return self._construct(kind, fields, values, path)

    def _run_validators(
        self, kind: type, fields: tuple[tomltypes.Field, ...], values: Mapping[str, object], path: KeyPath
    ) -> bool:
        """Run each given field's validator by itself, so that one failure does not hide the next.

        A validator that looks at other fields sees the values read so far on a half-made instance; where one it
        needs is not there, it is left to the constructor.
        """
        if any(field.attribute.converter is not None for field in fields):
            return True
        probe: object = object.__new__(kind)
        for field in fields:
            if field.name in values and values[field.name] is not _BAD:
                object.__setattr__(probe, field.name, values[field.name])
            elif not field.required:
                object.__setattr__(probe, field.name, field.default())
        before = len(self.problems)
        for field in fields:
            if field.attribute.validator is None or values.get(field.name, _BAD) is _BAD:
                continue
            try:
                field.attribute.validator(probe, field.attribute, values[field.name])
            except AttributeError:
                continue
            except (ValueError, TypeError, Rejected, ExceptionGroup) as error:
                self._note_error(error, path, (*path, field.key))
        return len(self.problems) == before

    def _construct(
        self, kind: type, fields: tuple[tomltypes.Field, ...], values: Mapping[str, object], path: KeyPath
    ) -> object:
        arguments = {
            field.attribute.alias or field.name: values[field.name] for field in fields if field.name in values
        }
        try:
            return kind(**arguments)
        except (ValueError, TypeError, Rejected, ExceptionGroup) as error:
            self._note_error(error, path, path)
            return _BAD

    def _note_error(self, error: Exception, table: KeyPath, place: KeyPath) -> None:
        """Note what a validator, parser or constructor said; ``place`` is where unless the error names a key."""
        for single in _flatten(error):
            if isinstance(single, Rejected):
                for reason in single.reasons:
                    self._bad(place, reason.text)
            elif isinstance(single, Invalid):
                self._bad((*table, *single.key.split(".")) if single.key else place, str(single), single.allowed)
            else:
                self._bad(place, *_of_attrs(single))

    def value(self, kind: object, item: object, path: KeyPath) -> object:
        """A value of any type a field may have."""
        members = tomltypes.union_members(kind)
        if len(members) > 1:
            return self._union(members, item, path)
        kind = members[0]
        if (array := tomltypes.array_of(kind)) is not None:
            return self._array(array[0], array[1], item, path)
        if (member := tomltypes.table_of(kind)) is not None:
            return self._mapping(member, item, path)
        if (attrs_class := tomltypes.attrs_class(kind)) is not None:
            return self.table(attrs_class, item, path)
        return self._scalar(kind, item, path)

    def _array(self, build: type, member: object, item: object, path: KeyPath) -> object:
        if not isinstance(item, list):
            return self._bad(path, f"{_name(item)} instead of an array", f"an array of: {tomltypes.describe(member)}")
        values = [self.value(member, element, (*path, position)) for position, element in enumerate(item)]
        return _BAD if any(value is _BAD for value in values) else build(values)

    def _mapping(self, member: object, item: object, path: KeyPath) -> object:
        if not isinstance(item, dict):
            return self._bad(path, f"{_name(item)} instead of a table", "a table")
        values = {key: self.value(member, element, (*path, key)) for key, element in item.items()}
        return _BAD if any(value is _BAD for value in values.values()) else values

    def _union(self, members: tuple[object, ...], item: object, path: KeyPath) -> object:
        if isinstance(item, dict) and (classes := [c for m in members if (c := tomltypes.attrs_class(m))]):
            return self.table(min(classes, key=lambda c: _distance(c, item)), item, path)
        for member in members:
            attempt = _Reader(self._filename, self._index)
            value = attempt.value(member, item, path)
            if not attempt.problems:
                return value
        return self._bad(path, f"{_name(item)} does not fit", " or ".join(tomltypes.describe(m) for m in members))

    def _scalar(self, kind: object, item: object, path: KeyPath) -> object:
        allowed = tomltypes.describe(kind)
        if (values := tomltypes.literal_values(kind)) is not None:
            same = [value for value in values if value == item and type(value) is type(item)]
            return same[0] if same else self._bad(path, f"{_name(item)} is not allowed", allowed)
        if (members := tomltypes.enum_class(kind)) is not None:
            chosen = [member for member in members if member.value == item and type(item) is not bool]
            return chosen[0] if chosen else self._bad(path, f"{_name(item)} is not allowed", allowed)
        if (parser := tomltypes.text_parser(kind)) is not None:
            if not isinstance(item, str):
                return self._bad(path, f"{_name(item)} instead of a string", allowed)
            try:
                return parser[0](item)
            except (ValueError, Rejected) as error:
                text = "; ".join(str(single) for single in _flatten(error))
                return self._bad(path, text, None if "(allowed:" in text else allowed)
        return self._plain(kind, item, path)

    def _plain(self, kind: object, item: object, path: KeyPath) -> object:
        if kind is float and type(item) is int:
            return float(item)
        if kind is datetime and isinstance(item, datetime) and item.tzinfo is not None:
            return item.astimezone(UTC)
        if kind is not datetime and type(item) is kind and kind in tomltypes.PLAIN:
            return item
        if kind not in tomltypes.PLAIN:
            raise TypeError(f"{format_path(path)}: {kind} is not a type that TOML can hold")
        return self._bad(path, f"{_name(item)} instead of {tomltypes.describe(kind)}", tomltypes.describe(kind))


def _flatten(error: Exception) -> Iterator[Exception]:
    if isinstance(error, ExceptionGroup):
        for inner in error.exceptions:
            yield from _flatten(inner)
    else:
        yield error


def _of_attrs(error: Exception) -> tuple[str, str | None]:
    """What one of attrs' own validators says, which puts more than the message into args, and what is allowed."""
    if len(error.args) == 4 and isinstance(bounds := error.args[2], range):
        return f"{_name(error.args[3])} is out of range", f"{bounds.start} to {bounds.stop - 1}"
    return str(error.args[0]) if error.args else type(error).__name__, None


def _distance(kind: type, data: dict[str, object]) -> int:
    """How badly a table fits an attrs class: wrong literals weigh most, then unknown and missing keys."""
    fields = tomltypes.fields(kind)
    known = {field.key for field in fields}
    distance = sum(key not in known for key in data)
    for field in fields:
        distance += field.required and field.key not in data
        values = tomltypes.literal_values(field.type)
        if values is not None and data.get(field.key, None if field.required else field.default()) not in values:
            distance += 1000
    return distance


def _name(item: object) -> str:
    """A TOML value in words, short enough for a message; strings and numbers are shown."""
    if isinstance(item, dict):
        return "a table"
    if isinstance(item, list):
        return "an array"
    if isinstance(item, datetime):
        return "a date and time" if item.tzinfo else "a date and time without an offset"
    if isinstance(item, date):
        return "a date"
    text = tomltypes.spell(item)
    return text if len(text) <= 60 else f'{text[:56]}…"'
