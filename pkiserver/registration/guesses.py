"""Wrong guesses at passwords, codes and challenges slow down: by address, and by template.

Kept in the memory of each process and bounded: writing every wrong guess to the database would let a guesser load it.
A node with n workers therefore allows n times the figures.

* An address may be wrong ``free`` times; after that each wrong guess doubles a pause, from one second up to
  ``longest``, in which nothing of that address is looked at. One wrong guess is forgiven for each ``forgive`` that
  passes. Being right forgives nothing, or a guesser with an account of their own would never be slowed.
* All addresses together may be wrong about one template ``template_rate`` times a minute. Beyond that, until the minute
  has gone, only addresses that were right lately are listened to, so that a guesser with many addresses slows down
  without shutting out those who are known.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from datetime import timedelta

import attrs

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.tomlfile import Invalid

MOST_ADDRESSES = 65536
"""Addresses that are remembered; the one that was quiet longest is forgotten first."""
MOST_TEMPLATES = 4096
_KNOWN_FOR = 24 * 3600.0
"""Seconds for which an address that was right counts as known."""
_IPV6_SITE = 64
"""Bits of an IPv6 address that tell sites apart; a site chooses the rest."""
TOO_MANY = "too many wrong guesses: try again later"


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


@attrs.define
class _Address:
    wrong: float = 0.0
    at: float = 0.0
    until: float = 0.0
    right_at: float = -math.inf


@attrs.define
class _Bucket:
    left: float
    at: float


class Guesses:
    """Counts wrong guesses and says who has to wait."""

    def __init__(self, settings: GuessSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._exempt = tuple(ipaddress.ip_network(text) for text in settings.exempt)
        self._addresses: OrderedDict[str, _Address] = OrderedDict()
        self._templates: OrderedDict[str, _Bucket] = OrderedDict()

    def check(self, template: str, address: str) -> None:
        """Ask before a secret that can be guessed is looked at; costs no more than a dictionary look-up.

        Args:
            template: The name of a template that exists.
            address: The peer's address as text.

        Raises:
            Unavailable: too many wrong guesses; ``retry_after`` says when to try again.
        """
        now = self._clock.monotonic()
        known = None
        if not self._is_exempt(address):
            known = self._addresses.get(_site(address))
        if known is not None and now < known.until:
            raise Unavailable(TOO_MANY, retry_after=math.ceil(known.until - now))
        if known is not None and now - known.right_at < _KNOWN_FOR:
            return
        bucket = self._bucket(template, now)
        if bucket.left < 1:
            raise Unavailable(TOO_MANY, retry_after=math.ceil((1 - bucket.left) / self._per_second) + 1)

    def wrong(self, template: str, address: str) -> None:
        """A guess was wrong."""
        now = self._clock.monotonic()
        bucket = self._bucket(template, now)
        # Guesses that ran side by side are all charged, but the debt is bounded: it is paid within a minute.
        bucket.left = max(bucket.left - 1, -float(self._settings.template_rate))
        if self._is_exempt(address):
            return
        known = self._address(_site(address), now)
        known.wrong += 1
        beyond = math.ceil(known.wrong - self._settings.free)
        if beyond > 0:
            longest = self._settings.longest.total_seconds()
            known.until = now + min(longest, 2.0 ** min(beyond - 1, 32))

    def right(self, address: str) -> None:
        """A secret was right: the address is known for a day."""
        if not self._is_exempt(address):
            now = self._clock.monotonic()
            self._address(_site(address), now).right_at = now

    @property
    def _per_second(self) -> float:
        return self._settings.template_rate / 60

    def _bucket(self, template: str, now: float) -> _Bucket:
        full = float(self._settings.template_rate)
        bucket = self._templates.get(template)
        if bucket is None:
            bucket = self._templates[template] = _Bucket(full, now)
            if len(self._templates) > MOST_TEMPLATES:
                self._templates.popitem(last=False)
        bucket.left = min(full, bucket.left + (now - bucket.at) * self._per_second)
        bucket.at = now
        return bucket

    def _address(self, site: str, now: float) -> _Address:
        known = self._addresses.get(site)
        if known is None:
            known = self._addresses[site] = _Address(at=now)
            if len(self._addresses) > MOST_ADDRESSES:
                self._addresses.popitem(last=False)
        self._addresses.move_to_end(site)
        known.wrong = max(0.0, known.wrong - (now - known.at) / self._settings.forgive.total_seconds())
        known.at = now
        return known

    def _is_exempt(self, address: str) -> bool:
        if not self._exempt:
            return False
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._exempt)


def _site(address: str) -> str:
    """What counts as one address: an IPv4 address, or the site of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, _IPV6_SITE), strict=False))
    return str(parsed)
