"""Search filters (RFC 4511 section 4.5.1.7) as frozen values, decoded with a stack of our own and within limits."""

from __future__ import annotations

import attrs

from protocols.addressbook.ber import OCTET_STRING, Reader, header, malformed
from protocols.addressbook.errors import LdapError, LimitHit, ResultCode

AND, OR, NOT = 0xA0, 0xA1, 0xA2
EQUALITY, SUBSTRINGS, GREATER, LESS = 0xA3, 0xA4, 0xA5, 0xA6
PRESENT, APPROXIMATE, EXTENSIBLE = 0x87, 0xA8, 0xA9
_INITIAL, _ANY, _FINAL = 0x80, 0x81, 0x82


@attrs.frozen
class FilterLimits:
    """What one filter may cost; counted while it is decoded."""

    depth: int = 16
    elements: int = 128
    """Components of all kinds, and substrings."""


@attrs.frozen
class And:
    """All hold; without parts it is true (RFC 4526)."""

    parts: tuple[Filter, ...]


@attrs.frozen
class Or:
    """One holds; without parts it is false (RFC 4526)."""

    parts: tuple[Filter, ...]


@attrs.frozen
class Not:
    """The part does not hold."""

    part: Filter


@attrs.frozen
class Equality:
    """``(attribute=value)``; ``approximate`` for ``~=``. Attribute descriptions are lower case throughout."""

    attribute: str
    value: bytes
    approximate: bool = False


@attrs.frozen
class Substrings:
    """``(attribute=initial*any*final)``; an empty ``initial`` or ``final`` was not given."""

    attribute: str
    initial: bytes
    middle: tuple[bytes, ...]
    final: bytes


@attrs.frozen
class Ordering:
    """``(attribute>=value)``, or ``<=`` where not ``greater``."""

    attribute: str
    value: bytes
    greater: bool


@attrs.frozen
class Present:
    """``(attribute=*)``."""

    attribute: str


@attrs.frozen
class Extensible:
    """``(attribute:dn:rule:=value)``; ``attribute`` and ``rule`` are empty where not given."""

    rule: str
    attribute: str
    value: bytes
    dn_attributes: bool


Filter = And | Or | Not | Equality | Substrings | Ordering | Present | Extensible


def description(octets: bytes) -> str:
    """An attribute description, lower case; one that cannot be one becomes a name that matches nothing."""
    return octets.decode("ascii", "replace").lower()


def read_filter(reader: Reader, limits: FilterLimits) -> Filter:
    """The filter that comes next.

    Raises:
        Disconnect: it is no filter.
        LdapError: it is nested too deeply or has too many parts.
    """
    data = reader.data
    tag, start, stop = header(data, reader.position, reader.end)
    reader.position = stop
    if tag not in {AND, OR, NOT}:
        return _leaf(data, tag, start, stop, limits)
    stack: list[tuple[int, int, list[Filter]]] = [(tag, stop, [])]
    position = start
    elements = 1
    while True:
        tag, end, parts = stack[-1]
        if position == end:
            stack.pop()
            made = _combined(tag, parts)
            if not stack:
                return made
            stack[-1][2].append(made)
            continue
        elements += 1
        if elements > limits.elements:
            raise too_much()
        inner, start, stop = header(data, position, end)
        if inner in {AND, OR, NOT}:
            if len(stack) >= limits.depth:
                raise too_much()
            stack.append((inner, stop, []))
            position = start
        else:
            parts.append(_leaf(data, inner, start, stop, limits))
            position = stop


def too_much() -> LdapError:
    """A filter over the limits."""
    return LdapError(ResultCode.ADMIN_LIMIT_EXCEEDED, "the filter is too complex", limit=LimitHit.FILTER)


def _combined(tag: int, parts: list[Filter]) -> Filter:
    if tag == AND:
        return And(tuple(parts))
    if tag == OR:
        return Or(tuple(parts))
    if len(parts) != 1:
        raise malformed("a negation of other than one filter")
    return Not(parts[0])


def _leaf(data: bytes, tag: int, start: int, stop: int, limits: FilterLimits) -> Filter:
    if tag == EQUALITY:
        attribute, value = _assertion(data, start, stop)
        return Equality(attribute, value)
    if tag == PRESENT:
        return Present(description(data[start:stop]))
    if tag == SUBSTRINGS:
        return _substrings(data, start, stop, limits)
    if tag in {GREATER, LESS}:
        return Ordering(*_assertion(data, start, stop), greater=tag == GREATER)
    if tag == APPROXIMATE:
        return Equality(*_assertion(data, start, stop), approximate=True)
    if tag == EXTENSIBLE:
        return _extensible(data, start, stop)
    raise malformed("an unknown kind of filter")


def _assertion(data: bytes, start: int, stop: int) -> tuple[str, bytes]:
    reader = Reader(data, start, stop)
    attribute = description(reader.octets())
    value = reader.octets()
    reader.finish()
    return attribute, value


def _substrings(data: bytes, start: int, stop: int, limits: FilterLimits) -> Substrings:
    reader = Reader(data, start, stop)
    attribute = description(reader.octets(OCTET_STRING))
    pieces = reader.inner(0x30)
    reader.finish()
    initial = final = b""
    middle: list[bytes] = []
    while not pieces.done:
        tag = pieces.peek()
        value = pieces.octets(tag)
        if not value or final:
            raise malformed("substrings out of order")
        if tag == _INITIAL and not initial and not middle:
            initial = value
        elif tag == _ANY:
            middle.append(value)
        elif tag == _FINAL:
            final = value
        else:
            raise malformed("substrings out of order")
        if len(middle) > limits.elements:
            raise too_much()
    if not (initial or middle or final):
        raise malformed("a substring filter without substrings")
    return Substrings(attribute, initial, tuple(middle), final)


def _extensible(data: bytes, start: int, stop: int) -> Extensible:
    reader = Reader(data, start, stop)
    rule = description(reader.octets(0x81)) if reader.peek() == 0x81 else ""
    attribute = description(reader.octets(0x82)) if reader.peek() == 0x82 else ""
    value = reader.octets(0x83)
    dn_attributes = reader.boolean(0x84) if reader.peek() == 0x84 else False
    reader.finish()
    if not rule and not attribute:
        raise malformed("an extensible match without a type and without a rule")
    return Extensible(rule, attribute, value, dn_attributes)
