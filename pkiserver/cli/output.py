"""How commands print: tables that fit the terminal, or JSON; progress on stderr."""

from __future__ import annotations

import base64
import enum
import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PIPE_WIDTH = 160
"""Columns of a table when stdout is no terminal and ``$COLUMNS`` is not set."""
_GAP = 2
"""Between two columns of a table."""

JsonValue = str | int | float | bool | None | Sequence["JsonValue"] | Mapping[str, "JsonValue"]


def printable(text: str) -> str:
    """Text with every control and direction-changing character shown as an escape.

    Names in certificates come from clients; they must not drive the terminal that lists them.
    """
    return "".join(
        character if unicodedata.category(character) not in {"Cc", "Cf", "Cs"} else ascii(character)[1:-1]
        for character in text
    )


def to_json(value: object) -> JsonValue:
    """A domain value as JSON: enums by value, times as RFC 3339 in UTC, durations in seconds, octets as base64.

    Raises:
        TypeError: the value has no JSON form; secrets have none on purpose.
    """
    if isinstance(value, enum.Enum):
        return to_json(value.value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | PurePath):
        return str(value)
    return _container_to_json(value)


def _container_to_json(value: object) -> JsonValue:
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return sorted((to_json(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    kind: type = type(value)
    if attrs.has(kind):
        return {a.name: to_json(getattr(value, a.name)) for a in attrs.fields(kind)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_text(value: object) -> str:
    """A domain value as a person reads it in a table cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, enum.Enum):
        return to_text(value.value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, timedelta):
        from pkiserver.foundation.durations import format_duration

        return format_duration(value) if value >= timedelta() else f"-{format_duration(-value)}"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple | frozenset | set):
        return "\n".join(to_text(item) for item in value) or "-"
    return printable(str(value)) if not isinstance(value, str) else "\n".join(map(printable, value.split("\n")))


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, steps: float = 1) -> None:
        """Count ``steps`` more as done."""


@attrs.frozen
class _Column:
    """One column of a table as text; ``least`` and ``most`` are its widths with every word, and every line, whole."""

    heading: str
    cells: tuple[Text, ...]
    numeric: bool
    least: int
    most: int

    @classmethod
    def of(cls, name: str, values: Sequence[object]) -> _Column:
        from rich.cells import cell_len
        from rich.text import Text

        heading = name.replace("_", " ")
        texts = [heading, *map(to_text, values)]
        return cls(
            heading,
            tuple(map(Text, texts[1:])),
            all(type(value) in {int, float} for value in values),
            max(cell_len(word) for text in texts for word in text.split() or [""]),
            max(cell_len(line) for text in texts for line in text.splitlines() or [""]),
        )


def _shared_out(columns: Sequence[_Column], width: int) -> list[int] | None:
    """How wide each column is to be so that no word is broken; None where there is not even room for the words."""
    widths = [column.least for column in columns]
    spare = width - sum(widths) - _GAP * (len(columns) - 1)
    if spare < 0:
        return None
    while spare and (wanting := [n for n, column in enumerate(columns) if widths[n] < column.most]):
        share = max(1, spare // len(wanting))
        for n in wanting:
            more = min(share, columns[n].most - widths[n], spare)
            widths[n] += more
            spare -= more
    return widths


def _write_utf8(text: str) -> None:
    """What programs read is UTF-8 in every locale (RFC 8259 section 8.1, TOML)."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())


class Output:
    """Prints the results of one command to stdout."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def table(self, rows: Iterable[Mapping[str, object]], *, title: str | None = None, empty: str = "none") -> None:
        """Print rows of one shape: a table whose headings are the keys, or a JSON array of objects.

        Args:
            rows: Each a mapping from column name (snake_case) to value; all with the same keys in the same order.
            title: Above the table.
            empty: What to say when there are no rows.
        """
        listed = list(rows)
        if self.json:
            self._print_json(listed)
            return
        if not listed:
            self.message(f"{title}: {empty}" if title else empty)
            return
        console = self._console()
        columns = [_Column.of(name, [row[name] for row in listed]) for name in listed[0]]
        widths = _shared_out(columns, console.width)
        if widths is None:
            self._one_below_the_other(columns, title)
            return
        from rich.table import Table

        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for column, width in zip(columns, widths, strict=True):
            table.add_column(column.heading, width=width, justify="right" if column.numeric else "left")
        for cells in zip(*(column.cells for column in columns), strict=True):
            table.add_row(*cells)
        console.print(table)

    def _one_below_the_other(self, columns: Sequence[_Column], title: str | None) -> None:
        """Rows that are too wide for the terminal: each as a block of its own, as in psql's expanded mode."""
        if title:
            self.message(title)
        for number, cells in enumerate(zip(*(column.cells for column in columns), strict=True)):
            if number:
                self.message("")
            self._print_fields((column.heading, cell) for column, cell in zip(columns, cells, strict=True))

    def page(self, rows: Iterable[Mapping[str, object]], *, limit: int, onward: str, empty: str = "none") -> None:
        """As :meth:`table`, for up to ``limit`` rows of a longer list, and how to go on where there may be more.

        Args:
            rows: As for :meth:`table`; the list is in the order of its first column.
            limit: How many rows were asked for.
            onward: The option that takes the last row's first column.
            empty: What to say when there are no rows.
        """
        listed = list(rows)
        self.table(listed, empty=empty)
        if len(listed) == limit:
            self.note(f"More: {onward} {next(iter(listed[-1].values()))}")

    def record(self, value: Mapping[str, object], *, title: str | None = None) -> None:
        """Print one thing, field by field, or as one JSON object."""
        if self.json:
            self._print_json(value)
            return
        from rich.text import Text

        self._print_fields(((name.replace("_", " "), Text(to_text(item))) for name, item in value.items()), title=title)

    def _print_fields(self, fields: Iterable[tuple[str, Text]], *, title: str | None = None) -> None:
        from rich.table import Table

        table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in fields:
            table.add_row(name, text)
        self._console().print(table)

    def done(self, text: str, **fields: object) -> None:
        """Say what was done: one line, or the fields as one JSON object."""
        if self.json:
            self._print_json(fields)
        else:
            self.message(text)

    def message(self, text: str) -> None:
        """Print text for a person; nothing in JSON mode."""
        if not self.json:
            sys.stdout.write("\n".join(map(printable, text.split("\n"))) + "\n")

    def raw(self, text: str) -> None:
        """Print text exactly (PEM, TOML, JSON lines), whatever the mode."""
        _write_utf8(text if text.endswith("\n") else f"{text}\n")

    def note(self, text: str) -> None:
        """A remark to the person at the terminal, on stderr; nothing in JSON mode."""
        if not self.json:
            sys.stderr.write(f"{printable(text)}\n")

    @contextmanager
    def progress(self, what: str, total: float | None = None) -> Iterator[Advance]:
        """Show a progress bar on stderr while the block runs, if that is a terminal and the mode is not JSON.

        Args:
            what: What is being done.
            total: How many steps there are; None when that is not known.
        """
        if self.json or not sys.stderr.isatty():
            yield lambda steps=1: None  # noqa: ARG005  # the name is part of Advance
            return
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(printable(what), total=total)
            yield lambda steps=1: bar.advance(task, steps)

    def _print_json(self, value: object) -> None:
        _write_utf8(json.dumps(to_json(value), ensure_ascii=False, indent=2) + "\n")

    def _console(self) -> Console:
        from rich.console import Console

        if sys.stdout.isatty() or "COLUMNS" in os.environ:
            return Console(highlight=False, soft_wrap=False)
        return Console(highlight=False, width=PIPE_WIDTH)
