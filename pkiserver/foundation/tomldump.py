"""From frozen attrs values to TOML text."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import attrs
import tomlkit
from tomlkit.items import AoT, Array, Item, Table
from tomlkit.toml_document import TOMLDocument

from pkiserver.foundation import tomltypes
from pkiserver.foundation.durations import format_duration
from pkiserver.foundation.tomlindex import Path, format_path


def dump(value: attrs.AttrsInstance, *, comment: Mapping[str, str] | None = None) -> str:
    """Write a value as TOML that :func:`~pkiserver.foundation.tomlload.load` reads back as an equal value.

    Keys at their default are left out (but for ``Literal`` fields, which tell the members of a union apart).

    Args:
        value: An instance of an attrs class as :func:`load` takes it.
        comment: Dotted key path, array positions in brackets (``listener[0].port``), to the text written above that
            key, line by line; ``""`` stands at the top. It goes before the field's own ``metadata["comment"]``.

    Raises:
        ValueError: the value cannot be written: None where that is not the default, or a type TOML has no form for.
    """
    writer = _Writer(comment or {})
    document = tomlkit.document()
    head = writer.comments.get("")
    if head is not None:
        _write_comment(document, head)
        document.add(tomlkit.nl())
    writer.fill(document, value, ())
    return tomlkit.dumps(document)


def _write_comment(container: TOMLDocument | Table, text: str) -> None:
    for line in text.splitlines():
        container.add(tomlkit.comment(line) if line.strip() else tomlkit.nl())


class _Writer:
    def __init__(self, comments: Mapping[str, str]) -> None:
        self.comments = comments

    def fill(self, container: TOMLDocument | Table, value: attrs.AttrsInstance, path: Path) -> None:
        """Add the fields of ``value``: plain keys first, as TOML wants it, then tables."""
        plain: list[tuple[tomltypes.Field, Item]] = []
        tables: list[tuple[tomltypes.Field, Item]] = []
        for field in tomltypes.fields(type(value)):
            item = getattr(value, field.name)
            if not field.required and item == field.default() and tomltypes.literal_values(field.type) is None:
                continue
            written = self.item(item, (*path, field.key))
            (tables if isinstance(written, Table | AoT) else plain).append((field, written))
        for position, (field, written) in enumerate(plain + tables):
            here = (*path, field.key)
            text = self.comments.get(format_path(here), field.comment)
            if position >= len(plain) and (position or isinstance(container, Table)):
                container.add(tomlkit.nl())
            if text is not None:
                _write_comment(container, text)
            container.add(field.key, written)

    def item(self, value: object, path: Path) -> Item:
        """One value as a tomlkit item."""
        if isinstance(value, Mapping):
            table = tomlkit.table()
            for key in sorted(value, key=lambda key: _is_table(value[key])):
                table.add(key, self.item(value[key], (*path, key)))
            return table
        if isinstance(value, tuple | list | frozenset):
            return self._array(value, path)
        if _is_table(value):
            table = tomlkit.table()
            self.fill(table, value, path)  # type: ignore[arg-type]  # _is_table has looked
            return table
        return tomlkit.item(_scalar(value, path))

    def _array(self, value: tuple[object, ...] | list[object] | frozenset[object], path: Path) -> Array | AoT:
        elements = list(value)
        if isinstance(value, frozenset):
            elements.sort(key=str)
        if elements and all(_is_table(element) for element in elements):
            tables = tomlkit.aot()
            for position, element in enumerate(elements):
                table = self.item(element, (*path, position))
                assert isinstance(table, Table)
                tables.append(table)
            return tables
        array = tomlkit.array()
        for position, element in enumerate(elements):
            array.append(_inline(self.item(element, (*path, position))))
        text = array.as_string()
        return array.multiline(multiline=True) if len(text) > 100 else array


def _inline(item: Item) -> Item:
    if not isinstance(item, Table):
        return item
    inline = tomlkit.inline_table()
    inline.update(item.unwrap())
    return inline


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) or tomltypes.attrs_class(type(value)) is not None


def _scalar(value: object, path: Path) -> str | int | float | bool | date | datetime:
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{format_path(path)}: a date and time without an offset is not written")
        return value.astimezone(UTC)
    if isinstance(value, str | int | float | date):
        return value
    if tomltypes.text_parser(type(value)) is not None:
        return str(value)
    raise ValueError(f"{format_path(path)}: {type(value).__name__} has no TOML form")
