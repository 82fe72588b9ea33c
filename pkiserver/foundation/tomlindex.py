"""On which line each key and each value of a TOML text stands.

``tomllib`` gives values without positions. This index reads a text that ``tomllib`` has already accepted, so it may
assume that the syntax is right and only keeps count: it never decides what a text means.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import attrs

Path = tuple[str | int, ...]

_TOKEN = re.compile(
    r"""
      (?P<blank>[ \t\r]+|\#[^\n]*)
    | (?P<newline>\n)
    | (?P<string>\"{3}(?:\\.|[^\\])*?\"{3}\"{0,2} | '{3}.*?'{3}'{0,2} | "(?:\\.|[^"\\\n])*" | '[^'\n]*')
    | (?P<mark>[\[\]{}=,.])
    | (?P<bare>[^\s\[\]{}=,.\#"']+)
    """,
    re.VERBOSE | re.DOTALL,
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def format_path(path: Path) -> str:
    """``("listener", 1, "port")`` as ``listener[1].port``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else f'"{part}"'
            text += f".{name}" if text else name
    return text


@attrs.frozen
class _Token:
    kind: str
    text: str
    line: int


def _tokens(text: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or ""
        if kind != "blank":
            yield _Token(kind, match[0], line)
        line += match[0].count("\n")


class TomlIndex:
    """The line, counted from 1, of every key, table and array element of a valid TOML text."""

    def __init__(self, text: str) -> None:
        self._lines: dict[Path, int] = {(): 1}
        self._lengths: dict[Path, int] = {}
        self._tokens = [*_tokens(text), _Token("newline", "\n", text.count("\n") + 1)]
        self._at = 0
        table: Path = ()
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            if token.kind == "newline":
                self._at += 1
            elif token.text == "[":
                table = self._header()
            else:
                self._pair(table)

    def line(self, path: Path) -> int:
        """The line of ``path``; of the nearest table or value around it when it is not in the text."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def _note(self, path: Path, line: int) -> None:
        self._lines.setdefault(path, line)

    def _is(self, mark: str) -> bool:
        token = self._tokens[self._at]
        return token.kind == "mark" and token.text == mark

    def _key(self) -> list[str]:
        parts = []
        while True:
            token = self._tokens[self._at]
            parts.append(tomllib.loads(f"k={token.text}")["k"] if token.kind == "string" else token.text)
            self._at += 1
            if not self._is("."):
                return parts
            self._at += 1

    def _header(self) -> Path:
        line = self._tokens[self._at].line
        self._at += 1
        of_array = self._is("[")
        self._at += of_array
        parts = self._key()
        self._at += 1 + of_array
        path: Path = ()
        for position, part in enumerate(parts):
            path = (*path, part)
            self._note(path, line)
            if of_array and position == len(parts) - 1:
                self._lengths[path] = self._lengths.get(path, 0) + 1
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
                self._note(path, line)
        # a table that a longer header named before it gets the line of its own header
        self._lines[path] = line
        return path

    def _pair(self, table: Path) -> None:
        line = self._tokens[self._at].line
        path = table
        for part in self._key():
            path = (*path, part)
            self._note(path, line)
        self._at += 1
        self._value(path)

    def _value(self, path: Path) -> None:
        if self._is("["):
            self._array(path)
        elif self._is("{"):
            self._inline_table(path)
        else:
            while self._tokens[self._at].kind != "newline" and self._tokens[self._at].text not in {",", "]", "}"}:
                self._at += 1

    def _array(self, path: Path) -> None:
        self._at += 1
        position = 0
        while not self._is("]"):
            if self._tokens[self._at].kind == "newline" or self._is(","):
                self._at += 1
                continue
            self._note((*path, position), self._tokens[self._at].line)
            self._value((*path, position))
            position += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while not self._is("}"):
            if self._tokens[self._at].kind == "newline" or self._is(","):
                self._at += 1
                continue
            self._pair(path)
        self._at += 1
