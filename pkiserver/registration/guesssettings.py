"""What an administrator sets of how wrong guesses slow down.

Apart from the counting: the parent of workers reads the settings and loads no database library.
"""

from __future__ import annotations

from datetime import timedelta

import attrs

from pkiserver.foundation.bounds import networks, some_time


@attrs.frozen
class GuessSettings:
    """How wrong guesses slow down."""

    free: int = attrs.field(default=5, validator=attrs.validators.in_(range(1, 1001)))
    """Wrong guesses of one address that cost nothing."""
    longest: timedelta = attrs.field(default=timedelta(minutes=15), validator=some_time)
    """The longest pause of one address."""
    forgive: timedelta = attrs.field(default=timedelta(minutes=1), validator=some_time)
    """The time in which one wrong guess of an address is forgiven."""
    template_rate: int = attrs.field(default=60, validator=attrs.validators.in_(range(1, 100_001)))
    """Wrong guesses about one template in a minute, of all addresses together."""
    exempt: tuple[str, ...] = attrs.field(default=(), validator=networks)
    """Addresses or networks that are not slowed by themselves: proxies, behind which many are."""
