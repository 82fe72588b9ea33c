r"""Patterns for names, matched in time linear in the text whatever the pattern: a small DFA built as it is used.

Two spellings, both anchored at both ends:

* glob: ``?`` is one character, ``*`` any run without a separator, ``**`` any run. The separators depend on what is
  matched: ``.`` in DNS names, ``@`` in mail addresses and UPNs, ``/`` in URIs, none in other text.
* ``re:`` and a regular expression without look-around, back references or anchors: literals, ``.``, ``[...]``,
  ``\d \w \s`` (ASCII), groups, ``|``, and the quantifiers ``* + ? {m} {m,} {m,n}``.
"""

from __future__ import annotations

import attrs

from pkiserver.authority.templates.patterngroups import Mark, followed

MAX_PATTERN = 512
MAX_PROGRAM = 4000
MAX_CACHED = 4096
MAX_REPEAT = 256
LAST = 0x10FFFF

_Ranges = tuple[tuple[int, int], ...]
_CLASSES: dict[str, _Ranges] = {
    "d": ((48, 57),),
    "w": ((48, 57), (65, 90), (95, 95), (97, 122)),
    "s": ((9, 13), (32, 32)),
}
_SPECIAL = set("()[]{}*+?|.^$\\")


def _complement(ranges: _Ranges) -> _Ranges:
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
class _Set:
    ranges: _Ranges


@attrs.frozen
class _Sequence:
    items: tuple[_Node, ...]


@attrs.frozen
class _Choice:
    items: tuple[_Node, ...]


@attrs.frozen
class _Repeat:
    item: _Node
    least: int
    most: int | None


@attrs.frozen
class _Group:
    """The first group with a number, whose text may be asked for."""

    item: _Node


_Node = _Set | _Sequence | _Choice | _Repeat | _Group


def _literal(char: str) -> _Set:
    return _Set(((ord(char), ord(char)),))


def _parse_glob(text: str, separators: str) -> _Node:
    within = _Set(_complement(tuple((ord(char), ord(char)) for char in separators)))
    items: list[_Node] = []
    position = 0
    while position < len(text):
        char = text[position]
        if text.startswith("**", position):
            items.append(_Repeat(_Set(((0, LAST),)), 0, None))
            position += 1
        elif char == "*":
            items.append(_Repeat(within, 0, None))
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
    return _Sequence(tuple(items))


class _RegexParser:
    def __init__(self, text: str, *, fold: bool) -> None:
        self.text = text
        self.position = 0
        self.depth = 0
        self.grouped = False
        self._fold = fold

    def parse(self) -> _Node:
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

    def _choice(self) -> _Node:
        items = [self._sequence()]
        while self._peek() == "|":
            self._take()
            items.append(self._sequence())
        return items[0] if len(items) == 1 else _Choice(tuple(items))

    def _sequence(self) -> _Node:
        items: list[_Node] = []
        while self._peek() not in {"", "|", ")"}:
            items.append(self._quantified())
        return _Sequence(tuple(items))

    def _quantified(self) -> _Node:
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
        return _Repeat(node, *bounds)

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

    def _atom(self) -> _Node:
        char = self._take()
        if char == "(":
            return self._group()
        if char == "[":
            return self._bracket()
        if char == ".":
            return _Set(((0, LAST),))
        if char == "\\":
            return _Set(self._escape())
        if char in _SPECIAL:
            raise ValueError(f"{char!r} at {self.position - 1} has no meaning here (patterns are anchored already)")
        return _literal(char.lower() if self._fold else char)

    def _group(self) -> _Node:
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
        return _Group(node) if first else node

    def _escape(self) -> _Ranges:
        char = self._take()
        if char.lower() in _CLASSES:
            ranges = _CLASSES[char.lower()]
            return ranges if char.islower() else _complement(ranges)
        if char.isalnum():
            raise ValueError(f"\\{char} is not in the subset")
        return ((ord(char), ord(char)),)

    def _bracket(self) -> _Set:
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
        return _Set(_complement(tuple(ranges)) if negated else tuple(ranges))

    def _member(self) -> _Ranges:
        char = self._take()
        return self._escape() if char == "\\" else ((ord(char), ord(char)),)


@attrs.frozen
class Instruction:
    """Reads a character, or goes on without."""

    ranges: _Ranges | None  # None: jump to the targets without reading, to the first one rather than to the second
    targets: tuple[int, ...]
    mark: Mark | None = None


class Program:
    """A pattern as instructions; the one after the last stands for its end."""

    def __init__(self, node: _Node) -> None:
        self.code: list[Instruction] = []
        self._emit(node)
        self.end = len(self.code)

    def _put(self, ranges: _Ranges | None, *targets: int) -> int:
        if len(self.code) >= MAX_PROGRAM:
            raise ValueError("the pattern is too large once its repetitions are written out")
        self.code.append(Instruction(ranges, targets))
        return len(self.code) - 1

    def _emit(self, node: _Node) -> None:
        if isinstance(node, _Set):
            at = self._put(node.ranges)
            self.code[at] = Instruction(node.ranges, (at + 1,))
        elif isinstance(node, _Sequence):
            for item in node.items:
                self._emit(item)
        elif isinstance(node, _Choice):
            self._emit_choice(node)
        elif isinstance(node, _Group):
            self._emit_mark(Mark.BEGIN)
            self._emit(node.item)
            self._emit_mark(Mark.END)
        else:
            self._emit_repeat(node)

    def _emit_mark(self, mark: Mark) -> None:
        at = self._put(None)
        self.code[at] = Instruction(None, (at + 1,), mark)

    def _emit_choice(self, node: _Choice) -> None:
        exits = []
        for item in node.items[:-1]:
            split = self._put(None)
            self._emit(item)
            exits.append(self._put(None))
            self.code[split] = Instruction(None, (split + 1, len(self.code)))
        self._emit(node.items[-1])
        for at in exits:
            self.code[at] = Instruction(None, (len(self.code),))

    def _emit_repeat(self, node: _Repeat) -> None:
        for _ in range(node.least):
            self._emit(node.item)
        if node.most is None:
            split = self._put(None)
            self._emit(node.item)
            self._put(None, split)
            self.code[split] = Instruction(None, (split + 1, len(self.code)))
            return
        splits = []
        for _ in range(node.most - node.least):
            splits.append(self._put(None))
            self._emit(node.item)
        for at in splits:
            self.code[at] = Instruction(None, (at + 1, len(self.code)))

    def closure(self, starts: set[int]) -> frozenset[int]:
        """Everything reachable without reading a character; only reading instructions and the end are kept."""
        found: set[int] = set()
        seen = set(starts)
        todo = list(starts)
        while todo:
            at = todo.pop()
            if at == self.end or self.code[at].ranges is not None:
                found.add(at)
                continue
            fresh = [target for target in self.code[at].targets if target not in seen]
            seen.update(fresh)
            todo.extend(fresh)
        return frozenset(found)

    def step(self, state: frozenset[int], char: int) -> frozenset[int]:
        """The states after ``char``."""
        return self.closure({at + 1 for at in state if self.reads(at, char)})

    def reads(self, at: int, char: int) -> bool:
        """Whether the instruction reads ``char``."""
        ranges = self.code[at].ranges if at != self.end else None
        return ranges is not None and any(low <= char <= high for low, high in ranges)


class Pattern:
    """A compiled pattern.

    ``ignore_case`` folds ASCII letters of pattern and text. :meth:`matches` costs a dictionary look-up a character
    once a text of the kind has been seen; the cache is bounded, so hostile texts cost time, not memory.

    Raises:
        ValueError: the text is not a pattern of the subset; the message says what and where.
    """

    def __init__(self, text: str, *, separators: str = "", ignore_case: bool = False) -> None:
        if not text or len(text) > MAX_PATTERN:
            raise ValueError(f"a pattern has 1 to {MAX_PATTERN} characters")
        self.text = text
        self._fold = ignore_case
        if text.startswith("re:"):
            node = _RegexParser(text[3:], fold=ignore_case).parse()
        else:
            node = _parse_glob(text.lower() if ignore_case else text, separators)
        self._program = Program(node)
        self._start = self._program.closure({0})
        self._steps: dict[tuple[frozenset[int], str], frozenset[int]] = {}

    def matches(self, value: str) -> bool:
        """Whether the whole of ``value`` matches."""
        state = self._start
        steps = self._steps
        for char in value.lower() if self._fold else value:
            try:
                state = steps[state, char]
            except KeyError:
                if len(steps) >= MAX_CACHED:
                    steps.clear()
                after = self._program.step(state, ord(char))
                steps[state, char] = after
                state = after
            if not state:
                return False
        return self._program.end in state

    @property
    def has_group(self) -> bool:
        """Whether there is a group with a number, so that :meth:`group` is for something."""
        return any(one.mark is not None for one in self._program.code)

    def group(self, value: str) -> str | None:
        """What the first group stands for where the whole of ``value`` matches; None where it stands for nothing.

        As Python's re finds it, in time linear in the text: all ways of reading it are followed side by side, the
        preferred one first (R. Pike's machine).
        """
        begun, ended = followed(self._program, value.lower() if self._fold else value)
        return None if begun is None or ended is None else value[begun:ended]

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"
