"""LDAP search filters (RFC 4515) with places for values.

A filter is read once, from the administrator's text, into a tree; a value is put into the tree, where it can only be a
value, whatever characters it has. No filter is ever made by joining strings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

import attrs

from pkiserver.foundation.tomlfile import Invalid
from pkiserver.outbound.placeholders import Part, Place, split

MAX_DEPTH = 16
MAX_FILTER = 4096
_DESCRIPTION = re.compile(r"(?:[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)+)(?:;[A-Za-z0-9-]+)*")
_ESCAPE = re.compile(r"\\(..)", re.DOTALL)
_ITEM = re.compile(
    r"(?P<name>[^=<>~:()]*)(?P<rule>(?::dn)?(?::[A-Za-z0-9.-]+)?:)?(?P<kind>[<>~]?=)(?P<value>.*)", re.DOTALL
)


class Kind(StrEnum):
    """What a node of the tree says."""

    AND = "&"
    OR = "|"
    NOT = "!"
    EQUAL = "="
    AT_LEAST = ">="
    AT_MOST = "<="
    LIKE = "~="
    PRESENT = "=*"
    SUBSTRINGS = "=*x*"
    RULE = ":="


Values = tuple[tuple[bytes | Place, ...], ...]


@attrs.frozen
class Filter:
    """A filter, or a part of one. ``values`` are the assertion values: one, or the pieces between asterisks."""

    kind: Kind
    inner: tuple[Filter, ...] = ()
    name: str = ""
    rule: str | None = None
    dn_attributes: bool = False
    values: Values = ()

    @classmethod
    def parse(cls, text: str, places: Iterable[str] = ()) -> Filter:
        """From RFC 4515 text with places.

        Raises:
            Invalid: it is no filter, nests too deeply, or names a place that has no value.
        """
        if len(text) > MAX_FILTER:
            raise Invalid(f"is longer than {MAX_FILTER} characters")
        found, end = _parse(text, 0, tuple(places), 0)
        if end != len(text):
            raise Invalid(f"goes on after the filter's end, at {text[end : end + 20]!r}")
        return found


def equal(name: str, value: bytes) -> Filter:
    """The filter for one attribute with one value."""
    return Filter(Kind.EQUAL, name=name, values=((value,),))


def filled(tree: Filter, values: Mapping[str, str]) -> Filter:
    """The same tree with a value in every place."""
    return attrs.evolve(
        tree,
        inner=tuple(filled(one, values) for one in tree.inner),
        values=tuple(
            (b"".join(part if isinstance(part, bytes) else values[part.name].encode() for part in parts),)
            for parts in tree.values
        ),
    )


def _parse(text: str, at: int, places: tuple[str, ...], depth: int) -> tuple[Filter, int]:
    if depth > MAX_DEPTH:
        raise Invalid(f"nests deeper than {MAX_DEPTH}")
    if text[at : at + 1] != "(":
        raise Invalid(f"has no parenthesis at {text[at : at + 20]!r}; a filter looks like (uid=$(userid))")
    mark = text[at + 1 : at + 2]
    if mark in {"&", "|", "!"}:
        return _parse_set(text, at + 2, places, depth, Kind(mark))
    end = _item_end(text, at + 1)
    return _parse_item(text[at + 1 : end], places), end + 1


def _parse_set(text: str, at: int, places: tuple[str, ...], depth: int, kind: Kind) -> tuple[Filter, int]:
    inner = []
    while text[at : at + 1] == "(":
        one, at = _parse(text, at, places, depth + 1)
        inner.append(one)
    if text[at : at + 1] != ")" or not inner or (kind is Kind.NOT and len(inner) != 1):
        raise Invalid(f"has an unfinished ({kind}...) at {text[at : at + 20]!r}")
    return Filter(kind, inner=tuple(inner)), at + 1


def _item_end(text: str, at: int) -> int:
    while at < len(text):
        if text.startswith("$(", at):
            at = text.find(")", at)
            if at < 0:
                break
        elif text[at] == ")":
            return at
        at += 1
    raise Invalid("has a parenthesis that is not closed")


def _parse_item(item: str, places: tuple[str, ...]) -> Filter:
    found = _ITEM.fullmatch(item)
    if found is None or (found["rule"] and found["kind"] != "="):
        raise Invalid(f"has a part that compares nothing: {item!r}")
    name, rule = found["name"], found["rule"]
    if not _DESCRIPTION.fullmatch(name) and not (rule and not name):
        raise Invalid(f"{name!r} is no attribute")
    pieces = found["value"].split("*")
    if rule:
        dn = rule.startswith(":dn:")
        identifier = rule.removeprefix(":dn").strip(":") or None
        return Filter(Kind.RULE, name=name, rule=identifier, dn_attributes=dn, values=(_value(found["value"], places),))
    if found["kind"] != "=" or len(pieces) == 1:
        kind = {"=": Kind.EQUAL, ">=": Kind.AT_LEAST, "<=": Kind.AT_MOST, "~=": Kind.LIKE}[found["kind"]]
        return Filter(kind, name=name, values=(_value(found["value"], places),))
    if pieces == ["", ""]:
        return Filter(Kind.PRESENT, name=name)
    return Filter(Kind.SUBSTRINGS, name=name, values=tuple(_value(piece, places) for piece in pieces))


def _value(text: str, places: tuple[str, ...]) -> tuple[bytes | Place, ...]:
    return tuple(_octets(part) for part in split(text, places))


def _octets(part: Part) -> bytes | Place:
    if isinstance(part, Place):
        return part
    if "(" in part or ")" in part:
        raise Invalid("has a parenthesis in a value; write \\28 and \\29")
    out, at = b"", 0
    for found in _ESCAPE.finditer(part):
        try:
            octet = bytes.fromhex(found.group(1))
        except ValueError:
            raise Invalid(f"has an escape that is not two hexadecimal digits: {found.group(0)!r}") from None
        out += part[at : found.start()].encode() + octet
        at = found.end()
    return out + part[at:].encode()
