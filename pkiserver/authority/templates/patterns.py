r"""Patterns for names, matched in time linear in the text whatever the pattern: a small DFA built as it is used.

Two spellings, both anchored at both ends:

* glob: ``?`` is one character, ``*`` any run without a separator, ``**`` any run. The separators depend on what is
  matched: ``.`` in DNS names, ``@`` in mail addresses and UPNs, ``/`` in URIs, none in other text.
* ``re:`` and a regular expression without look-around, back references or anchors: literals, ``.``, ``[...]``,
  ``\d \w \s`` (ASCII), groups, ``|``, and the quantifiers ``* + ? {m} {m,} {m,n}``.
"""

from __future__ import annotations

from pkiserver.authority.templates.patterngroups import followed
from pkiserver.authority.templates.patternprogram import Program
from pkiserver.authority.templates.patternsyntax import parse_glob, parse_regex

MAX_PATTERN = 512
MAX_CACHED = 4096


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
            node = parse_regex(text[3:], fold=ignore_case)
        else:
            node = parse_glob(text.lower() if ignore_case else text, separators)
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
