"""Every limit of the address book, by name and with its unit."""

from __future__ import annotations

import ipaddress
from typing import Any

import attrs

from protocols.addressbook.filters import FilterLimits

KIB = 1024
LDAP_PROTOCOLS: tuple[bytes, ...] = ()
"""IANA has no ALPN identifier for LDAP: a client that offers any speaks something else and is turned away (ALPACA)."""


def _positive(_instance: object, attribute: attrs.Attribute[Any], value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be above zero")


def _amount(default: float) -> Any:
    return attrs.field(default=default, validator=_positive)


@attrs.frozen
class LdapLimits:
    """What the LDAP listeners of one process put up with. Durations are seconds, sizes octets."""

    message_bytes: int = _amount(64 * KIB)
    """One message, before somebody is bound by name; also what is taken in beyond what has been worked on."""
    bound_message_bytes: int = _amount(1024 * KIB)
    """One message of somebody who may write."""
    filter: FilterLimits = attrs.field(factory=FilterLimits)
    operations: int = _amount(16)
    """Operations of one connection that may run at the same time; beyond it the connection is not read."""
    connections: int = _amount(4096)
    connections_per_address: int = _amount(64)
    """Open connections of one IPv4 address or one IPv6 /64."""
    message_seconds: float = _amount(20.0)
    """From a message's first octet to its last, however many dribble in; also for a TLS handshake."""
    idle_seconds: float = _amount(120.0)
    lifetime_seconds: float = _amount(3600.0)
    """After so long a connection ends at its next quiet moment."""
    operation_seconds: float = _amount(10.0)
    """How long a search may take; a client may ask for less."""
    write_stall_seconds: float = _amount(30.0)
    """How long a client may go without taking any of its answers."""
    nobody_seconds: float = _amount(0.01)
    """Answers without a person leave at whole multiples of this after the question."""
    sweep_seconds: float = _amount(0.5)
    crl_bytes: int = _amount(1024 * KIB)
    """A longer revocation list is not given out over LDAP."""


@attrs.frozen
class CallerPolicy:
    """What one kind of caller may ask, and how much of it."""

    results: int
    """Entries that one search by the beginning of a name gives at most."""
    prefix: int
    """Characters that such a beginning has at least."""
    searches_per_minute: int
    """Searches and compares, on average; ten seconds' worth may come at once."""
    results_per_hour: int
    """Entries of people given out."""


ANONYMOUS = CallerPolicy(results=20, prefix=3, searches_per_minute=600, results_per_hour=3000)
BOUND = CallerPolicy(results=200, prefix=3, searches_per_minute=3000, results_per_hour=30_000)


@attrs.frozen
class BookPolicy:
    """What whom is allowed."""

    base: str
    """The suffix, for instance ``dc=example,dc=com``."""
    anonymous: CallerPolicy = ANONYMOUS
    bound: CallerPolicy = BOUND
    trusted: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    """Networks, such as those of mail gateways, whose searches and results are not counted."""
    writers: frozenset[str] = frozenset()
    """Groups whose members may write external contacts; empty: nobody."""
    binds_per_minute: int = 30
    """Failed binds of one address."""
