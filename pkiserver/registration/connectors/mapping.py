"""How a connector's own fields become registration attributes and groups."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import attrs

from pkiserver.authority.templates import patterns
from pkiserver.foundation.tomlfile import Invalid
from pkiserver.registration.connectors.values import Denied, Step

MAX_VALUES = 64
MAX_VALUE = 2048
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@attrs.frozen
class Pattern:
    """A regular expression that a whole value must match; its first group, if there is one, is what is taken.

    Values come from outside, so it is one of the subset that no value can make slow (docs/templates.md). ``^`` and
    ``$`` at its ends say what holds anyway.
    """

    text: str
    compiled: patterns.Pattern = attrs.field(repr=False, eq=False)

    ALLOWED = "a regular expression without look-around, back references and lazy quantifiers"

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """From a setting; raises :class:`Invalid`."""
        inner = text.removeprefix("^")
        if inner.endswith("$") and not inner.endswith("\\$"):
            inner = inner[:-1]
        try:
            return cls(text, patterns.Pattern(f"re:{inner}"))
        except ValueError as error:
            raise Invalid(f"is no regular expression of the kind that is taken: {error}", allowed=cls.ALLOWED) from None

    def take(self, value: str) -> str | None:
        """What of the value counts; None where it does not match."""
        if not self.compiled.matches(value):
            return None
        return self.compiled.group(value) if self.compiled.has_group else value

    def __str__(self) -> str:
        return self.text


@attrs.frozen
class AttributeMap:
    """One registration attribute: ``name`` as templates know it, ``from`` as the other side calls it.

    ``match`` takes only the values that match it; ``required``: who has none is refused.
    """

    name: str
    source: str = attrs.field(metadata={"key": "from"})
    match: Pattern | None = None
    required: bool = False

    def __attrs_post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Invalid("is not 1 to 64 letters, digits, hyphens and underscores", key="name")
        if not self.source:
            raise Invalid("is empty", key="from")


def mapped(
    maps: Iterable[AttributeMap], values_of: Callable[[str], Iterable[str]]
) -> tuple[tuple[str, str], ...] | Denied:
    """The registration attributes, or who refuses for want of one."""
    found: list[tuple[str, str]] = []
    missing: list[str] = []
    for one in maps:
        taken = list(_taken(one, values_of(one.source)))
        if one.required and not taken:
            missing.append(one.source)
        found += [(one.name, value) for value in taken]
    if missing:
        return Denied(Step.ATTRIBUTE, f"there is no usable {', '.join(missing)} for this name", proved=True)
    return tuple(found)


def _taken(one: AttributeMap, values: Iterable[str]) -> Iterable[str]:
    for count, value in enumerate(values):
        if count >= MAX_VALUES:
            return
        if len(value) > MAX_VALUE or "\x00" in value:
            continue
        text = value if one.match is None else one.match.take(value)
        if text:
            yield text
