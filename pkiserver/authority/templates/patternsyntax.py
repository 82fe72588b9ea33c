"""The two spellings of a pattern, read into one tree: see :mod:`pkiserver.authority.templates.patterns`."""

from __future__ import annotations

import attrs

MAX_REPEAT = 256
LAST = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]
_CLASSES: dict[str, Ranges] = {
    "d": ((48, 57),),
    "w": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "s": ((9, 13), (32, 32)),
}
_SPECIAL = set("()[]{}*+?|.^$\\")


def _complement(ranges: Ranges) -> Ranges:
    found = []
    start = 0
    for low, high in sorted(ranges):
        if low > start:
            found.append((start, low - 1))
        start = max(start, high + 1)
    if start <= LAST:
        found.append((start, LAST))
    return tuple(found)


@attrs.frozen
class Set:
    """One character out of these ranges of code points, ends included."""

    ranges: Ranges


@attrs.frozen
class Sequence:
    """One after the other."""

    items: tuple[Node, ...]


@attrs.frozen
class Choice:
    """One of them, the first that fits preferred."""

    items: tuple[Node, ...]


@attrs.frozen
class Repeat:
    """``least`` times at least, ``most`` times at most; None: without an end."""

    item: Node
    least: int
    most: int | None


@attrs.frozen
class Group:
    """The first group with a number, whose text may be asked for."""

    item: Node


Node = Set | Sequence | Choice | Repeat | Group


def _literal(char: str) -> Set:
    return Set(((ord(char), ord(char)),))


def parse_glob(text: str, separators: str) -> Node:
    """A glob as a tree: ``*`` and ``?`` stop at each of ``separators``.

    Raises:
        ValueError: it ends in a backslash.
    """
    within = Set(_complement(tuple((ord(char), ord(char)) for char in separators)))
    items: list[Node] = []
    position = 0
    while position < len(text):
        char = text[position]
        if text.startswith("**", position):
            items.append(Repeat(Set(((0, LAST),)), 0, None))
            position += 1
        elif char == "*":
            items.append(Repeat(within, 0, None))
        elif char == "?":
            items.append(within)
        elif char == "\\":
            position += 1
            if position == len(text):
                raise ValueError("a backslash ends the pattern")
            items.append(_literal(text[position]))
        else:
            items.append(_literal(char))
        position += 1
    return Sequence(tuple(items))


def parse_regex(text: str, *, fold: bool) -> Node:
    """A regular expression of the subset as a tree; ``fold`` makes ASCII letters small.

    Raises:
        ValueError: it is not of the subset; the message says what and where.
    """
    return _RegexParser(text, fold=fold).parse()


class _RegexParser:
    def __init__(self, text: str, *, fold: bool) -> None:
        self.text = text
        self.position = 0
        self.depth = 0
        self.grouped = False
        self._fold = fold

    def parse(self) -> Node:
        node = self._choice()
        if self.position < len(self.text):
            raise ValueError(f"{self.text[self.position]!r} at {self.position} closes nothing")
        return node

    def _peek(self) -> str:
        return self.text[self.position] if self.position < len(self.text) else ""

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise ValueError("the pattern ends too early")
        self.position += 1
        return char

    def _choice(self) -> Node:
        items = [self._sequence()]
        while self._peek() == "|":
            self._take()
            items.append(self._sequence())
        return items[0] if len(items) == 1 else Choice(tuple(items))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while self._peek() not in {"", "|", ")"}:
            items.append(self._quantified())
        return Sequence(tuple(items))

    def _quantified(self) -> Node:
        node = self._atom()
        char = self._peek()
        bounds: tuple[int, int | None]
        if char == "{":
            bounds = self._braces()
        elif char and char in "*+?":
            self._take()
            bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        else:
            return node
        if self._peek() and self._peek() in "*+?{":
            raise ValueError(f"a quantifier after a quantifier at {self.position}")
        return Repeat(node, *bounds)

    def _braces(self) -> tuple[int, int | None]:
        end = self.text.find("}", self.position)
        low, comma, high = self.text[self.position + 1 : end].partition(",")
        if end < 0 or not low.isdecimal() or not (high.isdecimal() or not high):
            raise ValueError(f"a repetition at {self.position} is not {{m}}, {{m,}} or {{m,n}}")
        self.position = end + 1
        least = int(low)
        most = int(high) if high else (None if comma else least)
        if least > MAX_REPEAT or (most is not None and not least <= most <= MAX_REPEAT):
            raise ValueError(f"a repetition is outside 0 to {MAX_REPEAT}")
        return least, most

    def _atom(self) -> Node:
        char = self._take()
        if char == "(":
            return self._group()
        if char == "[":
            return self._bracket()
        if char == ".":
            return Set(((0, LAST),))
        if char == "\\":
            return Set(self._escape())
        if char in _SPECIAL:
            raise ValueError(f"{char!r} at {self.position - 1} has no meaning here (patterns are anchored already)")
        return _literal(char.lower() if self._fold else char)

    def _group(self) -> Node:
        first = False
        if self.text.startswith("?:", self.position):
            self.position += 2
        elif not self.grouped:
            first = self.grouped = True
        self.depth += 1
        if self.depth > 16:
            raise ValueError("groups are nested too deeply")
        node = self._choice()
        if self._take() != ")":
            raise ValueError("a group is not closed")
        self.depth -= 1
        return Group(node) if first else node

    def _escape(self) -> Ranges:
        char = self._take()
        if char.lower() in _CLASSES:
            ranges = _CLASSES[char.lower()]
            return ranges if char.islower() else _complement(ranges)
        if char.isalnum():
            raise ValueError(f"\\{char} is not in the subset")
        return ((ord(char), ord(char)),)

    def _bracket(self) -> Set:
        negated = self._peek() == "^"
        if negated:
            self._take()
        ranges: list[tuple[int, int]] = []
        while self._peek() != "]" or not ranges:
            low = self._member()
            if len(low) == 1 and self._peek() == "-" and not self.text.startswith("-]", self.position):
                self._take()
                high = self._member()
                if len(high) != 1 or low[0][0] > high[0][1]:
                    raise ValueError("a range of characters runs backwards")
                ranges.append((low[0][0], high[0][1]))
            else:
                ranges.extend(low)
        self._take()
        if self._fold:
            ranges += [(max(low, 65) + 32, min(high, 90) + 32) for low, high in ranges if low <= 90 and high >= 65]
        return Set(_complement(tuple(ranges)) if negated else tuple(ranges))

    def _member(self) -> Ranges:
        char = self._take()
        return self._escape() if char == "\\" else ((ord(char), ord(char)),)
