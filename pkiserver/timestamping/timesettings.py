"""Where a node gets its certainty about the time from."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum

import attrs

from pkiserver.foundation.bounds import some_time
from pkiserver.foundation.tomlfile import Invalid, format_duration

_SERVER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")


class TimeSourceKind(StrEnum):
    """What is asked whether the clock is right."""

    CHRONY = "chrony"
    NTP = "ntp"
    SYSTEM = "system"
    """Nothing: the clock is believed. For trying things out only."""


def _servers(_instance: object, _attribute: object, value: tuple[str, ...]) -> None:
    for one in value:
        if not _SERVER.fullmatch(one):
            raise Invalid(f'"{one}" is no time server', allowed="HOST, HOST:PORT, [IPv6] or [IPv6]:PORT")


@attrs.frozen
class TimeSettings:
    """The node's time monitor. Time-stamps are made only while every source named in ``sources`` agrees."""

    sources: tuple[TimeSourceKind, ...] = ()
    """Without any there are no time-stamps."""
    ntp_servers: tuple[str, ...] = attrs.field(default=(), validator=_servers)
    """Asked by ``ntp``; a majority must agree. Three or more are wise."""
    chronyc: str = "chronyc"
    """The command that ``chrony`` asks by."""
    poll: timedelta = attrs.field(default=timedelta(seconds=16), validator=some_time)
    timeout: timedelta = attrs.field(default=timedelta(seconds=1), validator=some_time)
    """How long one source may take to answer."""
    verdict_validity: timedelta = attrs.field(default=timedelta(seconds=64), validator=some_time)
    """How long the last good verdict counts while no new one can be had."""
    step: timedelta = attrs.field(default=timedelta(milliseconds=100), validator=some_time)
    """By how much the clock may move against its steady run between two polls."""
    leap_window: timedelta | None = None
    """While a leap second is announced no time-stamps are made; with this, only so long before and after it."""

    def __attrs_post_init__(self) -> None:
        problems = []
        if TimeSourceKind.NTP in self.sources and not self.ntp_servers:
            problems.append(Invalid("needs ntp_servers as well", key="sources"))
        if len(set(self.sources)) != len(self.sources):
            problems.append(Invalid("names a source twice", key="sources"))
        if self.verdict_validity <= self.poll:
            problems.append(
                Invalid(
                    "must be longer than poll",
                    key="verdict_validity",
                    allowed=f"more than {format_duration(self.poll)}",
                )
            )
        if problems:
            raise ExceptionGroup("impossible combinations", problems)
