"""What a filter lets the directory look up, and what nobody may ask: an allow-list.

A plan is a list of look-ups in indexes that finds every entry that the filter can match. A filter without a plan is not
refused; it finds nothing, in the time that a look-up takes, so that it cannot be told from one that matches nobody.
"""

from __future__ import annotations

import attrs

from pkiserver.publication.values import NameKind, NamePrefix
from pkiserver.store.names import folded
from pkiserver.store.publication.addressbook import address_key, name_key
from protocols.addressbook.assertions import CertificateAssertion, parse_assertion
from protocols.addressbook.filters import And, Equality, Extensible, Filter, Or, Ordering, Present, Substrings
from protocols.addressbook.schema import find_attribute

_MOST_PROBES = 16
_NAMES = {
    "cn": NameKind.CN,
    "displayName": NameKind.CN,
    "name": NameKind.CN,
    "sn": NameKind.SN,
    "givenName": NameKind.GIVEN,
    "mail": NameKind.MAIL,
    "uid": NameKind.MAIL,
}


@attrs.frozen
class Address:
    """The entries of an address key."""

    key: str


@attrs.frozen
class Plan:
    """Look-ups that find everything that a filter can match among people.

    ``people_only``: nothing else in the tree can match it. ``exact``: what is found needs no further test.
    """

    probes: tuple[Probe, ...]
    people_only: bool = False
    exact: bool = False


Probe = Address | NamePrefix | CertificateAssertion


def plan_of(wanted: Filter, prefix: int) -> Plan | None:
    """The plan for a filter; None where it asks for what is not on the list.

    Args:
        wanted: The filter.
        prefix: Characters that the beginning of a name must have.
    """
    if isinstance(wanted, Equality) and wanted.attribute in {"mail", "uid"}:
        key = _key(wanted.value)
        return None if key is None else Plan((Address(key),), people_only=True, exact=True)
    probes = _probes(wanted, prefix)
    if not probes or len(probes) > _MOST_PROBES:
        return None
    return Plan(probes, people_only=people_only(wanted))


def _key(value: bytes) -> str | None:
    try:
        return address_key(value.decode()) or None
    except UnicodeDecodeError:
        return None


def people_only(wanted: Filter) -> bool:
    """Whether only entries of people can match: nothing else in the tree has a mail address."""
    if isinstance(wanted, And):
        return any(people_only(part) for part in wanted.parts)
    if isinstance(wanted, (Equality, Substrings, Present, Ordering)):
        kind = find_attribute(wanted.attribute)
        return kind is not None and kind.names[0] in {"mail", "uid", "userCertificate"}
    return False


def _probes(wanted: Filter, prefix: int) -> tuple[Probe, ...]:
    """The look-ups of a filter; none where it names nothing that may be looked up."""
    match wanted:
        case And(parts):
            options = [found for part in parts if (found := _probes(part, prefix))]
            return min(options, key=_cost, default=())
        case Or(parts):
            return tuple(dict.fromkeys(probe for part in parts for probe in _probes(part, prefix)))
        case Equality(attribute, value):
            return _equal(attribute, value, prefix)
        case Substrings():
            return _beginning(wanted, prefix)
        case Extensible(_, attribute, value, _) if attribute:
            return _equal(attribute, value, prefix)
        case _:
            return ()


def _cost(probes: tuple[Probe, ...]) -> int:
    return sum(100 if isinstance(one, NamePrefix) else 1 for one in probes)


def _equal(attribute: str, value: bytes, prefix: int) -> tuple[Probe, ...]:
    kind = find_attribute(attribute)
    if kind is None:
        return ()
    if kind.names[0] == "userCertificate":
        assertion = parse_assertion(value)
        return () if assertion is None else (assertion,)
    name = _NAMES.get(kind.names[0])
    key = _key(value)
    if name is None or key is None:
        return ()
    if name is NameKind.MAIL:
        return (Address(key),)
    text = name_key(value.decode())
    return (NamePrefix(name, text, exact=True),) if len(text) >= prefix else ()


def _beginning(wanted: Substrings, prefix: int) -> tuple[Probe, ...]:
    kind = find_attribute(wanted.attribute)
    name = None if kind is None else _NAMES.get(kind.names[0])
    if name is None:
        return ()
    if name is NameKind.MAIL and (whole := _whole_address(wanted)) is not None:
        return (Address(whole),)
    try:
        text = folded((wanted.initial or _only_piece(wanted)).decode())
    except UnicodeDecodeError:
        return ()
    return (NamePrefix(name, text[:190], exact=False),) if len(text) >= prefix else ()


def _only_piece(wanted: Substrings) -> bytes:
    """The ``x`` of ``*x*``, as clients send it for what somebody typed: answered by what begins so."""
    return wanted.middle[0] if len(wanted.middle) == 1 and not wanted.initial and not wanted.final else b""


def _whole_address(wanted: Substrings) -> str | None:
    """The address in ``mail=*address*``, as some clients ask for exactly one person."""
    pieces = [piece for piece in (wanted.initial, *wanted.middle, wanted.final) if piece]
    if len(pieces) != 1 or wanted.initial:
        return None
    local, at, domain = pieces[0].partition(b"@")
    return _key(pieces[0]) if local and at and b"." in domain else None
