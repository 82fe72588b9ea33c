"""Who asks, and how much they have asked already."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

import attrs

from protocols.addressbook.errors import LdapError, LimitHit, ResultCode
from protocols.addressbook.limits import BookPolicy, CallerPolicy

_MOST = 65_536
"""Callers remembered; the one that has been silent the longest is forgotten first."""
_BURST = 1 / 6


@attrs.frozen
class Caller:
    """Who is at the other end. ``name`` is None while anonymous; ``key`` is what is counted by."""

    key: str
    name: str | None = None
    groups: frozenset[str] = frozenset()
    trusted: bool = False

    @property
    def authorization(self) -> str:
        """The authorization identity (RFC 4513 section 5.2.1.8); empty for anonymous."""
        return "" if self.name is None else f"u:{self.name}"


@attrs.define
class _Bucket:
    left: float
    at: float


class Meter:
    """Token buckets by caller, bounded in number: so many of something in a time, with bursts."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str, now: float, *, per_second: float, burst: float, amount: float = 1.0) -> bool:
        """Whether there is something left; takes ``amount`` then, possibly more than there is."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= _MOST:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = _Bucket(burst, now)
        else:
            self._buckets.move_to_end(key)
            bucket.left = min(burst, bucket.left + (now - bucket.at) * per_second)
            bucket.at = now
        if bucket.left < 1:
            return False
        bucket.left -= amount
        return True

    def has(self, key: str, now: float, *, per_second: float, burst: float) -> bool:
        """Whether there is something left; takes nothing."""
        return self.take(key, now, per_second=per_second, burst=burst, amount=0.0)


class Abuse:
    """Counts what callers ask and get (searches, results, failed binds) and refuses what is too much."""

    def __init__(self, policy: BookPolicy) -> None:
        self._policy = policy
        self._searches, self._results, self._binds = Meter(), Meter(), Meter()

    def is_trusted(self, address: str) -> bool:
        """Whether an address is in a network that is not counted."""
        if not self._policy.trusted:
            return False
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        return any(parsed in network for network in self._policy.trusted)

    def policy_of(self, caller: Caller) -> CallerPolicy:
        """What a caller may."""
        return self._policy.anonymous if caller.name is None else self._policy.bound

    def searching(self, caller: Caller, now: float) -> None:
        """Count a search or compare before anything is looked up.

        Raises:
            LdapError: too many; or so many results were given out that there are none for now. It is the same answer
                whatever is asked, so that it tells nothing about who exists.
        """
        if caller.trusted:
            return
        policy = self.policy_of(caller)
        rate = policy.searches_per_minute / 60
        if not self._searches.take(
            caller.key, now, per_second=rate, burst=max(1.0, policy.searches_per_minute * _BURST)
        ):
            raise LdapError(ResultCode.BUSY, "too many searches", limit=LimitHit.SEARCH_RATE)
        hourly = policy.results_per_hour
        if not self._results.has(caller.key, now, per_second=hourly / 3600, burst=hourly):
            raise LdapError(ResultCode.ADMIN_LIMIT_EXCEEDED, "too many results", limit=LimitHit.RESULT_RATE)

    def gave(self, caller: Caller, results: int, now: float) -> None:
        """Count entries of people that were given out."""
        if results and not caller.trusted:
            hourly = self.policy_of(caller).results_per_hour
            self._results.take(caller.key, now, per_second=hourly / 3600, burst=hourly, amount=results)

    def binding(self, key: str, now: float) -> None:
        """Refuse a bind from where too many have failed.

        Raises:
            LdapError: BUSY.
        """
        if not self._binds.has(key, now, per_second=self._bind_rate, burst=self._policy.binds_per_minute):
            raise LdapError(ResultCode.BUSY, "too many failed binds", limit=LimitHit.BIND_RATE)

    def failed_bind(self, key: str, now: float) -> None:
        """Count one."""
        self._binds.take(key, now, per_second=self._bind_rate, burst=self._policy.binds_per_minute)

    @property
    def _bind_rate(self) -> float:
        return self._policy.binds_per_minute / 60
