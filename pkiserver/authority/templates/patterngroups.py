"""What a pattern's first group stands for, found in time linear in the text (R. Pike's machine)."""

from __future__ import annotations

from pkiserver.authority.templates.patternprogram import Mark, Program

_Way = tuple[int, int | None, int | None]
"""Where in the program a way of reading the text stands, and where the group began and ended on it."""


def followed(program: Program, value: str) -> tuple[int | None, int | None]:
    """Where the group begins and ends on the preferred way of reading all of ``value``."""
    ways = _spread(program, [(0, None, None)], 0)
    for position, char in enumerate(value, 1):
        read = [(at + 1, begun, ended) for at, begun, ended in ways if program.reads(at, ord(char))]
        ways = _spread(program, read, position)
    return next(((begun, ended) for at, begun, ended in ways if at == program.end), (None, None))


def _spread(program: Program, ways: list[_Way], position: int) -> list[_Way]:
    """The ways that go on without reading, preferred ones first; of those that meet, the first."""
    found: list[_Way] = []
    seen: set[int] = set()
    todo = ways[::-1]
    while todo:
        at, begun, ended = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        if at == program.end or program.code[at].ranges is not None:
            found.append((at, begun, ended))
            continue
        mark = program.code[at].mark
        begun = position if mark is Mark.BEGIN else begun
        ended = position if mark is Mark.END else ended
        todo += [(target, begun, ended) for target in reversed(program.code[at].targets)]
    return found
