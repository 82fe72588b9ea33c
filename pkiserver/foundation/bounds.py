"""Validators of settings that have bounds or follow a pattern: what is refused is told with what is allowed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import timedelta

import attrs

from pkiserver.foundation.durations import format_duration
from pkiserver.foundation.tomlload import Invalid


def lasting(least: timedelta, most: timedelta) -> Callable[[object, attrs.Attribute[timedelta], timedelta], None]:
    """A duration: a longer one would run over the end of the calendar, or is a slip of the pen."""
    allowed = f"{format_duration(least)} to {format_duration(most)}"

    def check(_instance: object, attribute: attrs.Attribute[timedelta], value: timedelta) -> None:
        if not least <= value <= most:
            raise Invalid(f"{attribute.name} is too {'short' if value < least else 'long'}", allowed=allowed)

    return check


some_time = lasting(timedelta(microseconds=1), timedelta(days=36_500))
"""A duration that is not nothing."""
counting = attrs.validators.in_(range(1, 1 << 31))
"""A number of things of which there must be one."""


def seconds(_instance: object, _attribute: object, value: float) -> None:
    """A validator: a time in seconds that is not nothing, up to a day."""
    if not 0 < value <= 86_400:
        raise Invalid(f"{value} is out of range", allowed="more than 0, up to 86400 (seconds)")


def spelled(pattern: str, allowed: str) -> Callable[[object, object, str], None]:
    """A text that fits a regular expression as a whole; ``allowed`` says so in words."""
    compiled = re.compile(pattern)

    def check(_instance: object, _attribute: object, value: str) -> None:
        if not compiled.fullmatch(value):
            raise Invalid(f"{value!r} is not spelled as it must be", allowed=allowed)

    return check


SITE_NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Names of what a site has few of: authorities, templates, connectors, directories, targets, nodes."""
node_like_name = spelled(
    SITE_NAME.pattern, "1 to 63 of letters, digits, '.', '_' and '-', beginning with a letter or digit"
)


def networks(_instance: object, _attribute: object, value: tuple[str, ...]) -> None:
    """A validator: each is an address, or a network with its prefix length."""
    for text in value:
        try:
            ipaddress.ip_network(text)
        except ValueError as error:
            raise Invalid(f'"{text}": {error}', allowed="ADDRESS or ADDRESS/PREFIX") from error
