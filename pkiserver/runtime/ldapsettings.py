"""What an operator sets about the address book on this node; ``runtime.services`` hands it over to the protocol."""

from __future__ import annotations

import ipaddress
from datetime import timedelta

import attrs

MIB = 1024 * 1024


def _positive_int(_instance: object, _attribute: object, value: int) -> None:
    if value < 1:
        raise ValueError("must be at least 1")


def _positive(_instance: object, _attribute: object, value: timedelta) -> None:
    if value <= timedelta():
        raise ValueError("must be longer than 0s")


def _networks(_instance: object, _attribute: object, value: tuple[str, ...]) -> None:
    for text in value:
        ipaddress.ip_network(text)


@attrs.frozen
class CallerSettings:
    """What one kind of caller may ask, and how much of it."""

    results: int = attrs.field(default=20, validator=_positive_int)
    """Entries that one search by the beginning of a name gives at most."""
    prefix: int = attrs.field(default=3, validator=_positive_int)
    """Characters that such a beginning has at least."""
    searches_per_minute: int = attrs.field(default=600, validator=_positive_int)
    results_per_hour: int = attrs.field(default=3000, validator=_positive_int)


def _bound() -> CallerSettings:
    return CallerSettings(results=200, searches_per_minute=3000, results_per_hour=30_000)


@attrs.frozen
class LdapLimitSettings:
    """What each worker's LDAP listeners put up with."""

    message_bytes: int = attrs.field(default=64 * 1024, validator=_positive_int)
    """One message before somebody is bound by name."""
    bound_message_bytes: int = attrs.field(default=MIB, validator=_positive_int)
    connections: int = attrs.field(default=4096, validator=_positive_int)
    connections_per_address: int = attrs.field(default=64, validator=_positive_int)
    operations: int = attrs.field(default=16, validator=_positive_int)
    """Operations of one connection that may run at the same time."""
    message: timedelta = attrs.field(default=timedelta(seconds=20), validator=_positive)
    """From a message's first byte to its last; also for the TLS handshake."""
    idle: timedelta = attrs.field(default=timedelta(seconds=120), validator=_positive)
    lifetime: timedelta = attrs.field(default=timedelta(hours=1), validator=_positive)
    operation: timedelta = attrs.field(default=timedelta(seconds=10), validator=_positive)
    write_stall: timedelta = attrs.field(default=timedelta(seconds=30), validator=_positive)


@attrs.frozen
class LdapPolicySettings:
    """The address book's tree, and who may do what in it."""

    base: str = "o=pkiserver"
    """The suffix, for instance ``dc=example,dc=com``."""
    anonymous: CallerSettings = attrs.field(factory=CallerSettings)
    bound: CallerSettings = attrs.field(factory=_bound)
    trusted: tuple[str, ...] = attrs.field(default=(), validator=_networks)
    """Networks, such as those of mail gateways, whose searches and results are not counted."""
    connectors: tuple[str, ...] = ()
    """Who vouches for names and passwords at a bind; empty: this server's own accounts."""
    writers: tuple[str, ...] = ()
    """Groups whose members may write external contacts; empty: nobody."""
    cache_bytes: int = attrs.field(default=96 * MIB, validator=_positive_int)
    """What each worker keeps of entries in memory."""
    limits: LdapLimitSettings = attrs.field(factory=LdapLimitSettings)
