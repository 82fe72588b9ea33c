"""What an operator sets about the address book on this node; ``runtime.services`` hands it over to the protocol."""

from __future__ import annotations

from datetime import timedelta

import attrs

from pkiserver.foundation.bounds import counting, networks, some_time

MIB = 1024 * 1024


@attrs.frozen
class CallerSettings:
    """What one kind of caller may ask, and how much of it."""

    results: int = attrs.field(default=20, validator=counting)
    """Entries that one search by the beginning of a name gives at most."""
    prefix: int = attrs.field(default=3, validator=counting)
    """Characters that such a beginning has at least."""
    searches_per_minute: int = attrs.field(default=600, validator=counting)
    results_per_hour: int = attrs.field(default=3000, validator=counting)


def _bound() -> CallerSettings:
    return CallerSettings(results=200, searches_per_minute=3000, results_per_hour=30_000)


@attrs.frozen
class LdapLimitSettings:
    """What each worker's LDAP listeners put up with."""

    message_bytes: int = attrs.field(default=64 * 1024, validator=counting)
    """One message before somebody is bound by name."""
    bound_message_bytes: int = attrs.field(default=MIB, validator=counting)
    connections: int = attrs.field(default=4096, validator=counting)
    connections_per_address: int = attrs.field(default=64, validator=counting)
    operations: int = attrs.field(default=16, validator=counting)
    """Operations of one connection that may run at the same time."""
    message: timedelta = attrs.field(default=timedelta(seconds=20), validator=some_time)
    """From a message's first byte to its last; also for the TLS handshake."""
    idle: timedelta = attrs.field(default=timedelta(seconds=120), validator=some_time)
    lifetime: timedelta = attrs.field(default=timedelta(hours=1), validator=some_time)
    operation: timedelta = attrs.field(default=timedelta(seconds=10), validator=some_time)
    write_stall: timedelta = attrs.field(default=timedelta(seconds=30), validator=some_time)


@attrs.frozen
class LdapPolicySettings:
    """The address book's tree, and who may do what in it."""

    base: str = "o=pkiserver"
    """The suffix, for instance ``dc=example,dc=com``."""
    anonymous: CallerSettings = attrs.field(factory=CallerSettings)
    bound: CallerSettings = attrs.field(factory=_bound)
    trusted: tuple[str, ...] = attrs.field(default=(), validator=networks)
    """Networks, such as those of mail gateways, whose searches and results are not counted."""
    connectors: tuple[str, ...] = ()
    """Who vouches for names and passwords at a bind; empty: this server's own accounts."""
    writers: tuple[str, ...] = ()
    """Groups whose members may write external contacts; empty: nobody."""
    cache_bytes: int = attrs.field(default=96 * MIB, validator=counting)
    """What each worker keeps of entries in memory."""
    limits: LdapLimitSettings = attrs.field(factory=LdapLimitSettings)
