"""A pattern as a program: instructions that each read one character, or go on without reading."""

from __future__ import annotations

import enum

import attrs

from pkiserver.authority.templates.patternsyntax import Choice, Group, Node, Ranges, Repeat, Sequence, Set

MAX_PROGRAM = 4000


class Mark(enum.Enum):
    """Where the group begins and ends."""

    BEGIN = enum.auto()
    END = enum.auto()


@attrs.frozen
class Instruction:
    """Reads a character, or goes on without."""

    ranges: Ranges | None  # None: jump to the targets without reading, to the first one rather than to the second
    targets: tuple[int, ...]
    mark: Mark | None = None


class Program:
    """A pattern as instructions; the one after the last stands for its end."""

    def __init__(self, node: Node) -> None:
        self.code: list[Instruction] = []
        self._emit(node)
        self.end = len(self.code)

    def _put(self, ranges: Ranges | None, *targets: int) -> int:
        if len(self.code) >= MAX_PROGRAM:
            raise ValueError("the pattern is too large once its repetitions are written out")
        self.code.append(Instruction(ranges, targets))
        return len(self.code) - 1

    def _emit(self, node: Node) -> None:
        if isinstance(node, Set):
            at = self._put(node.ranges)
            self.code[at] = Instruction(node.ranges, (at + 1,))
        elif isinstance(node, Sequence):
            for item in node.items:
                self._emit(item)
        elif isinstance(node, Choice):
            self._emit_choice(node)
        elif isinstance(node, Group):
            self._emit_mark(Mark.BEGIN)
            self._emit(node.item)
            self._emit_mark(Mark.END)
        else:
            self._emit_repeat(node)

    def _emit_mark(self, mark: Mark) -> None:
        at = self._put(None)
        self.code[at] = Instruction(None, (at + 1,), mark)

    def _emit_choice(self, node: Choice) -> None:
        exits = []
        for item in node.items[:-1]:
            split = self._put(None)
            self._emit(item)
            exits.append(self._put(None))
            self.code[split] = Instruction(None, (split + 1, len(self.code)))
        self._emit(node.items[-1])
        for at in exits:
            self.code[at] = Instruction(None, (len(self.code),))

    def _emit_repeat(self, node: Repeat) -> None:
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
