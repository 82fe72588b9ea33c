"""Our values as ldaptor's LDAP operations (RFC 4511), and its answers as ours."""

from __future__ import annotations

from enum import IntEnum

import attrs
from ldaptor.protocols import pureber, pureldap

from pkiserver.outbound.ldapfilter import Filter, Kind

_SETS = {Kind.AND: pureldap.LDAPFilter_and, Kind.OR: pureldap.LDAPFilter_or}
_COMPARISONS = {
    Kind.EQUAL: pureldap.LDAPFilter_equalityMatch,
    Kind.AT_LEAST: pureldap.LDAPFilter_greaterOrEqual,
    Kind.AT_MOST: pureldap.LDAPFilter_lessOrEqual,
    Kind.LIKE: pureldap.LDAPFilter_approxMatch,
}


PAGED_RESULTS = b"1.2.840.113556.1.4.319"


def paged_results(size: int, cookie: bytes) -> bytes:
    """The value of the control that asks for a page (RFC 2696 section 2)."""
    value = pureber.BERSequence([pureber.BERInteger(size), pureber.BEROctetString(cookie)]).toWire()
    return bytes(value)


def page_cookie(value: bytes) -> bytes:
    """What to show for the next page, empty after the last; a value that is none ends the pages too."""
    try:
        found, _ = pureber.berDecodeObject(pureber.BERDecoderContext(), value)
        return _bytes(found[1])
    except Exception:  # noqa: BLE001 - whatever ldaptor makes of a broken value
        return b""


class Scope(IntEnum):
    """How far below its base a search looks."""

    BASE = 0
    ONE = 1
    TREE = 2


class ChangeKind(IntEnum):
    """RFC 4511 section 4.6."""

    ADD = 0
    DELETE = 1
    REPLACE = 2


@attrs.frozen
class Change:
    """One change of one attribute; no values with DELETE or REPLACE removes the attribute."""

    kind: ChangeKind
    attribute: str
    values: tuple[bytes, ...] = ()


@attrs.frozen
class Entry:
    """An entry; attribute names are compared without case, options such as ``;binary`` are part of the name."""

    dn: str
    attributes: tuple[tuple[str, tuple[bytes, ...]], ...] = ()

    def values(self, name: str) -> tuple[bytes, ...]:
        """All values of an attribute."""
        return next((values for key, values in self.attributes if key.lower() == name.lower()), ())

    def texts(self, name: str) -> tuple[str, ...]:
        """The values that are UTF-8 text."""
        found = []
        for value in self.values(name):
            try:
                found.append(value.decode())
            except UnicodeDecodeError:
                continue
        return tuple(found)


def wire_filter(tree: Filter) -> object:
    """A filter without open places as ldaptor has it."""
    if tree.kind in _SETS:
        return _SETS[tree.kind]([wire_filter(one) for one in tree.inner])
    if tree.kind is Kind.NOT:
        return pureldap.LDAPFilter_not(wire_filter(tree.inner[0]))
    if tree.kind is Kind.PRESENT:
        return pureldap.LDAPFilter_present(tree.name)
    values = [_closed(parts) for parts in tree.values]
    if tree.kind is Kind.RULE:
        return pureldap.LDAPFilter_extensibleMatch(
            matchingRule=tree.rule, type=tree.name or None, matchValue=values[0], dnAttributes=tree.dn_attributes
        )
    if tree.kind is Kind.SUBSTRINGS:
        return pureldap.LDAPFilter_substrings(type=tree.name, substrings=_substrings(values))
    return _COMPARISONS[tree.kind](
        attributeDesc=pureldap.LDAPAttributeDescription(tree.name),
        assertionValue=pureldap.LDAPAssertionValue(values[0]),
    )


def _closed(parts: tuple[object, ...]) -> bytes:
    octets = b"".join(part for part in parts if isinstance(part, bytes))
    assert all(isinstance(part, bytes) for part in parts), "a place without a value"
    return octets


def _substrings(values: list[bytes]) -> list[object]:
    kinds = [
        pureldap.LDAPFilter_substrings_initial,
        *[pureldap.LDAPFilter_substrings_any] * (len(values) - 2),
        pureldap.LDAPFilter_substrings_final,
    ]
    return [kind(value) for kind, value in zip(kinds, values, strict=True) if value]


def wire_changes(changes: tuple[Change, ...]) -> list[object]:
    """Changes as a ModifyRequest has them."""
    return [
        pureber.BERSequence(
            [
                pureber.BEREnumerated(int(change.kind)),
                pureber.BERSequence(
                    [
                        pureldap.LDAPAttributeDescription(change.attribute),
                        pureber.BERSet([pureldap.LDAPString(value) for value in change.values]),
                    ]
                ),
            ]
        )
        for change in changes
    ]


def wire_attributes(attributes: tuple[tuple[str, tuple[bytes, ...]], ...]) -> list[object]:
    """Attributes as an AddRequest has them."""
    return [
        (pureldap.LDAPAttributeDescription(name), pureber.BERSet([pureldap.LDAPString(value) for value in values]))
        for name, values in attributes
    ]


def entry_of(answer: pureldap.LDAPSearchResultEntry) -> Entry:
    """A search result."""
    return Entry(
        _text(answer.objectName),
        tuple((_text(name), tuple(_bytes(value) for value in values)) for name, values in answer.attributes),
    )


def _bytes(value: object) -> bytes:
    inner = getattr(value, "value", value)
    return inner if isinstance(inner, bytes) else str(inner).encode()


def _text(value: object) -> str:
    return _bytes(value).decode(errors="replace")
