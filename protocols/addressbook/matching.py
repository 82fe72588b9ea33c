"""Whether an entry matches a filter: true, false or undefined (RFC 4511 section 4.5.1.7)."""

from __future__ import annotations

from collections.abc import Callable

from pkiserver.store.names import folded
from protocols.addressbook.assertions import assertion_of, parse_assertion
from protocols.addressbook.entries import Entry
from protocols.addressbook.errors import LdapError
from protocols.addressbook.filters import And, Equality, Extensible, Filter, Not, Or, Ordering, Present, Substrings
from protocols.addressbook.names import normal, parse_dn
from protocols.addressbook.schema import (
    CLASS_NAMES,
    RULE_NAMES,
    AttributeType,
    Matching,
    descriptions_of,
    find_attribute,
)

Truth = bool | None
_SUBSTRING_KINDS = {Matching.FOLDED, Matching.MAIL, Matching.PHONE}


def matches(entry: Entry, wanted: Filter) -> Truth:
    """Whether the entry matches; None where that is undefined. Filters are as deep as decoding let them be."""
    match wanted:
        case And(parts):
            found = [matches(entry, part) for part in parts]
            return False if False in found else None if None in found else True
        case Or(parts):
            found = [matches(entry, part) for part in parts]
            return True if True in found else None if None in found else False
        case Not(part):
            inner = matches(entry, part)
            return None if inner is None else not inner
        case Present(attribute):
            return any(entry.values(name) for name in descriptions_of(attribute))
        case Extensible():
            return _extensible(entry, wanted)
        case _:
            return _assertion(entry, wanted)


def _assertion(entry: Entry, wanted: Equality | Substrings | Ordering) -> Truth:
    kind = find_attribute(wanted.attribute)
    if kind is None:
        return None
    match wanted:
        case Equality(_, value):
            test = equality(kind, value)
        case Substrings():
            test = _substrings(kind, wanted)
        case Ordering(_, value, greater):
            test = _ordering(kind, value, greater)
    if test is None:
        return None
    values = [value for name in descriptions_of(wanted.attribute) for value in entry.values(name)]
    return any(test(value) for value in values)


def text_key(kind: AttributeType, value: bytes) -> str | None:
    """A value as it is compared under the attribute's rule; None where it is no value of that kind."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    match kind.matching:
        case Matching.FOLDED | Matching.MAIL:
            return folded(text)
        case Matching.PHONE:
            return text.replace(" ", "").replace("-", "").lower()
        case Matching.OID:
            lowered = text.lower()
            return CLASS_NAMES.get(lowered, lowered)
        case Matching.TIME:
            return text
        case _:
            return None


def equality(kind: AttributeType, value: bytes) -> Callable[[bytes], bool] | None:
    """A test for equality with an asserted value; None where there is none."""
    if kind.matching is Matching.CERTIFICATE:
        assertion = parse_assertion(value)
        return None if assertion is None else lambda held: assertion_of(held) == assertion
    if kind.matching is Matching.DN:
        try:
            dn = normal(parse_dn(value))
        except LdapError:
            return None
        return lambda held: normal(parse_dn(held)) == dn
    key = text_key(kind, value)
    return None if key is None else lambda held: text_key(kind, held) == key


def _substrings(kind: AttributeType, wanted: Substrings) -> Callable[[bytes], bool] | None:
    if kind.matching not in _SUBSTRING_KINDS:
        return None
    pieces = [text_key(kind, piece) if piece else "" for piece in (wanted.initial, *wanted.middle, wanted.final)]
    if None in pieces:
        return None
    initial, *middle, final = (piece or "" for piece in pieces)

    def test(held: bytes) -> bool:
        text = text_key(kind, held)
        if text is None or not text.startswith(initial) or len(text) < len(initial) + len(final):
            return False
        position, end = len(initial), len(text) - len(final)
        for piece in middle:
            found = text.find(piece, position, end)
            if found < 0:
                return False
            position = found + len(piece)
        return text.endswith(final)

    return test


def _ordering(kind: AttributeType, value: bytes, greater: bool) -> Callable[[bytes], bool] | None:
    if kind.matching is not Matching.TIME:
        return None
    return (lambda held: held >= value) if greater else (lambda held: held <= value)


def _extensible(entry: Entry, wanted: Extensible) -> Truth:
    kind = find_attribute(wanted.attribute) if wanted.attribute else None
    if kind is None:
        return None
    if wanted.rule and RULE_NAMES.get(wanted.rule) != kind.matching.value:
        return None
    return _assertion(entry, Equality(wanted.attribute, wanted.value))
