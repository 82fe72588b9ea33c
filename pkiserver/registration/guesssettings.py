"""What an administrator sets of how wrong guesses slow down.

Apart from the counting: the parent of workers reads the settings and loads no database library.
"""

from __future__ import annotations

import ipaddress
from datetime import timedelta

import attrs

from pkiserver.foundation.tomlfile import Invalid


def _networks(_instance: object, _attribute: object, value: tuple[str, ...]) -> None:
    for text in value:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise Invalid(f'"{text}": {error}', allowed="ADDRESS or ADDRESS/PREFIX") from error


def _positive(_instance: object, _attribute: object, value: timedelta) -> None:
    if value <= timedelta():
        raise ValueError("must be longer than 0s")


@attrs.frozen
class GuessSettings:
    """How wrong guesses slow down."""

    free: int = attrs.field(default=5, validator=attrs.validators.in_(range(1, 1001)))
    """Wrong guesses of one address that cost nothing."""
    longest: timedelta = attrs.field(default=timedelta(minutes=15), validator=_positive)
    """The longest pause of one address."""
    forgive: timedelta = attrs.field(default=timedelta(minutes=1), validator=_positive)
    """The time in which one wrong guess of an address is forgiven."""
    template_rate: int = attrs.field(default=60, validator=attrs.validators.in_(range(1, 100_001)))
    """Wrong guesses about one template in a minute, of all addresses together."""
    exempt: tuple[str, ...] = attrs.field(default=(), validator=_networks)
    """Addresses or networks that are not slowed by themselves: proxies, behind which many are."""
