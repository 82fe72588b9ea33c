"""Types that stand as strings in a template file and know how to read themselves."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import ClassVar

import attrs

from pkiserver.authority.templates.attributes import DnAttribute
from pkiserver.authority.templates.sankinds import SanKind
from pkiserver.authority.templates.text import oid_problem
from pkiserver.authority.templates.usages import EXTENDED_USAGES, NAME_OF_USAGE, extended_usage_oid
from pkiserver.foundation import der

_VARIABLE = re.compile(r"(record|request)\.([A-Za-z0-9_-]{1,64})((?::[a-z]+)*)")
_REQUEST_NAMES = {*DnAttribute, *SanKind}
_FILTERS: dict[str, Callable[[str], str]] = {
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "user": lambda text: text.rpartition("\\")[2].partition("@")[0],
    "domain": lambda text: text.partition("\\")[0] if "\\" in text else text.partition("@")[2],
}


@attrs.frozen
class Oid:
    """A dotted object identifier."""

    ALLOWED: ClassVar[str] = "a dotted object identifier such as 1.3.6.1.4.1.99999.1"
    value: str

    @classmethod
    def parse(cls, text: str) -> Oid:
        """From dotted form; raises :class:`ValueError`."""
        if problem := oid_problem(text):
            raise ValueError(f'"{text}" {problem}')
        return cls(text)

    def __str__(self) -> str:
        return self.value


@attrs.frozen
class ExtendedUsage:
    """A purpose for extended key usage, by name or OID; written back by name where there is one."""

    ALLOWED: ClassVar[str] = f"an object identifier or one of {', '.join(EXTENDED_USAGES)}"
    oid: str

    @classmethod
    def parse(cls, text: str) -> ExtendedUsage:
        """From a name of :data:`EXTENDED_USAGES` or a dotted OID; raises :class:`ValueError`."""
        if text not in EXTENDED_USAGES and oid_problem(text):
            raise ValueError(f'"{text}" is no known purpose and no object identifier')
        return cls(extended_usage_oid(text))

    def __str__(self) -> str:
        return NAME_OF_USAGE.get(self.oid, self.oid)


@attrs.frozen
class DerValue:
    """One DER element, written as hexadecimal digits; spaces and colons between octets are ignored."""

    ALLOWED: ClassVar[str] = "one DER element as hexadecimal digits"
    data: bytes

    @classmethod
    def parse(cls, text: str) -> DerValue:
        """From hexadecimal digits; raises :class:`ValueError` when they are not exactly one well-formed element."""
        try:
            data = bytes.fromhex(text.replace(":", " "))
        except ValueError:
            raise ValueError("is not hexadecimal") from None
        if problem := element_problem(data):
            raise ValueError(problem)
        return cls(data)

    def __str__(self) -> str:
        return self.data.hex()


MAX_NESTING = 32


def element_problem(data: bytes) -> str | None:
    """Why the octets are not exactly one DER element, well-formed all the way down; None when they are."""
    try:
        element = der.element(data)
        if element.end != len(data):
            return "has octets after the DER element"
        todo = [(element, 0)]
        while todo:
            element, depth = todo.pop()
            if depth > MAX_NESTING:
                return "is nested too deeply"
            if element.tag & 0x20:
                todo += [(child, depth + 1) for child in der.children(data, element, at_most=len(data))]
    except der.NotDer as error:
        return f"is not DER: {error}"
    return None


@attrs.frozen
class Variable:
    """``{scope.name:filter}`` inside a text."""

    scope: str
    name: str
    filters: tuple[str, ...] = ()

    def apply(self, value: str) -> str:
        """The value after its filters."""
        for name in self.filters:
            value = _FILTERS[name](value)
        return value

    def __str__(self) -> str:
        return "{" + ":".join((f"{self.scope}.{self.name}", *self.filters)) + "}"


@attrs.frozen
class TextValue:
    """A text with variables: ``{record.mail}``, ``{request.common_name:lower}``; ``{{`` is a brace.

    Filters: ``lower``, ``upper``, ``user`` (before ``@`` or after a backslash), ``domain`` (the other half).
    """

    ALLOWED: ClassVar[str] = "a text with variables such as {record.mail}, {request.common_name:lower}"
    pieces: tuple[str | Variable, ...]

    @classmethod
    def parse(cls, text: str) -> TextValue:
        """Read a text; raises :class:`ValueError` for a brace that does not fit and an unknown variable or filter."""
        pieces: list[str | Variable] = []
        for part in re.split(r"(\{\{|\}\}|\{[^{}]*\})", text):
            if part in {"{{", "}}"}:
                pieces.append(part[0])
            elif part.startswith("{") and part.endswith("}"):
                pieces.append(_variable(part[1:-1]))
            elif "{" in part or "}" in part:
                raise ValueError("has a brace without its partner ({{ and }} stand for braces)")
            elif part:
                pieces.append(part)
        if not pieces:
            raise ValueError("is empty")
        return cls(tuple(_joined(pieces)))

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables, in order."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Variable))

    @property
    def fixed(self) -> str | None:
        """The text, when it has no variables."""
        return "".join(str(piece) for piece in self.pieces) if not self.variables else None

    def __str__(self) -> str:
        return "".join(
            str(piece) if isinstance(piece, Variable) else piece.replace("{", "{{").replace("}", "}}")
            for piece in self.pieces
        )


def _variable(text: str) -> Variable:
    match = _VARIABLE.fullmatch(text)
    if match is None:
        raise ValueError(f"{{{text}}} is no variable: record or request, a dot, a name, and filters after colons")
    if match[1] == "request" and match[2] not in _REQUEST_NAMES:
        raise ValueError(f"{match[2]} is nothing that a request has: {', '.join(sorted(_REQUEST_NAMES))}")
    filters = tuple(match[3].split(":")[1:])
    if unknown := [name for name in filters if name not in _FILTERS]:
        raise ValueError(f"{unknown[0]} is no filter: {', '.join(_FILTERS)}")
    return Variable(match[1], match[2], filters)


def _joined(pieces: list[str | Variable]) -> list[str | Variable]:
    joined: list[str | Variable] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined
