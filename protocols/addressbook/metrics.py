"""What the address book counts; plain integers on the hot path."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pkiserver.publication.values import BookCounts
from protocols.addressbook import messages
from protocols.addressbook.errors import LimitHit, ResultCode

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_NAMES = {
    messages.BIND: "bind",
    messages.SEARCH: "search",
    messages.COMPARE: "compare",
    messages.MODIFY: "modify",
    messages.ADD: "add",
    messages.DELETE: "delete",
    messages.MODIFY_DN: "modify_dn",
    messages.EXTENDED: "extended",
    messages.ABANDON: "abandon",
    messages.UNBIND: "unbind",
}


class LdapMetrics(Collector):
    """Counts of one process's LDAP listeners and of the address book behind them.

    Labels are bounded: operations of RFC 4511, its result codes, the members of :class:`LimitHit`.
    """

    def __init__(self, book: Callable[[], BookCounts]) -> None:
        self._book = book
        self._results: dict[tuple[int, int], int] = {}
        self._limits = dict.fromkeys(LimitHit, 0)
        self._buckets = [0] * (len(_BUCKETS) + 1)
        self._seconds = 0.0
        self.connections = 0
        self.open = 0
        self.entries = 0
        self.people = 0
        self.lookups = 0

    def answered(self, tag: int, code: int, seconds: float) -> None:
        """Count one answer."""
        key = (tag, code)
        self._results[key] = self._results.get(key, 0) + 1
        self._buckets[bisect.bisect_left(_BUCKETS, seconds)] += 1
        self._seconds += seconds

    def limit(self, hit: LimitHit) -> None:
        """Count a refusal or a cut connection."""
        self._limits[hit] += 1

    def limit_count(self, hit: LimitHit) -> int:
        """How often."""
        return self._limits[hit]

    def collect(self) -> Iterable[Metric]:
        """The families, for Prometheus."""
        results = CounterMetricFamily("pkiserver_ldap_results", "Answers", labels=["operation", "result"])
        for (tag, code), count in self._results.items():
            results.add_metric([_NAMES.get(tag, "other"), ResultCode(code).name.lower()], count)
        limits = CounterMetricFamily("pkiserver_ldap_limits", "Refused or cut", labels=["limit"])
        for hit, count in self._limits.items():
            limits.add_metric([hit.value], count)
        durations = HistogramMetricFamily("pkiserver_ldap_operation_seconds", "From request to answer")
        total, pairs = 0, []
        for bound, count in zip((*map(str, _BUCKETS), "+Inf"), self._buckets, strict=True):
            total += count
            pairs.append((bound, float(total)))
        durations.add_metric([], pairs, self._seconds)
        counts = self._book()
        return (
            results,
            limits,
            durations,
            _counter("connections", "Connections accepted", self.connections),
            GaugeMetricFamily("pkiserver_ldap_connections_open", "Connections open", self.open),
            _counter("entries", "Entries given out", self.entries),
            _counter("people", "Entries of people given out, over LDAP and HTTP", self.people),
            _counter("http_lookups", "Look-ups over HTTP", self.lookups),
            _counter("cache_hits", "Entries found in memory", counts.hits),
            _counter("cache_misses", "Entries looked up in the database", counts.misses),
            _counter("cache_dropped", "Entries dropped because something changed", counts.dropped),
            GaugeMetricFamily("pkiserver_ldap_cache_entries", "Addresses in memory", counts.cached),
            GaugeMetricFamily("pkiserver_ldap_cache_bytes", "What they take", counts.cached_bytes),
        )


def _counter(name: str, text: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(f"pkiserver_ldap_{name}", text, value=value)
