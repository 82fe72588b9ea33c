"""What the edge counts. Plain integers on the hot path, turned into Prometheus families when somebody asks."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from protocols.web.errors import LimitHit

_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the duration histogram, in seconds."""
NO_ROUTE = "none"
"""Route label of requests that reached no route."""


class _RouteCounts:
    __slots__ = ("buckets", "by_class", "seconds", "sent")

    def __init__(self) -> None:
        self.by_class = [0] * 6
        self.buckets = [0] * (len(_BUCKETS) + 1)
        self.seconds = 0.0
        self.sent = 0


class WebMetrics(Collector):
    """Counts of one process's HTTP listeners; register it with a CollectorRegistry.

    Labels are bounded: route names as declared, five status classes, the members of :class:`LimitHit`.
    """

    def __init__(self) -> None:
        self._routes: dict[str, _RouteCounts] = {}
        self._limits = dict.fromkeys(LimitHit, 0)
        self.connections_accepted = 0
        self.connections_open = 0
        self.running = 0
        self.trailers_dropped = 0
        self.cancelled = 0

    def answered(self, route: str, status: int, seconds: float, sent: int) -> None:
        """Count one answer; ``route`` must be a declared name or NO_ROUTE, ``sent`` is body octets."""
        counts = self._routes.get(route)
        if counts is None:
            counts = self._routes[route] = _RouteCounts()
        counts.by_class[status // 100] += 1
        counts.buckets[bisect.bisect_left(_BUCKETS, seconds)] += 1
        counts.seconds += seconds
        counts.sent += sent

    def limit(self, hit: LimitHit) -> None:
        """Count one refusal or cut connection."""
        self._limits[hit] += 1

    def limit_count(self, hit: LimitHit) -> int:
        """How often ``hit`` was counted."""
        return self._limits[hit]

    def collect(self) -> Iterable[Metric]:
        """The families, for Prometheus."""
        requests = CounterMetricFamily("pkiserver_http_requests", "Answers sent", labels=["route", "status"])
        octets = CounterMetricFamily("pkiserver_http_response_bytes", "Body octets sent", labels=["route"])
        durations = HistogramMetricFamily(
            "pkiserver_http_request_seconds", "From the request's last octet to its answer", labels=["route"]
        )
        for name, counts in self._routes.items():
            for hundreds, count in enumerate(counts.by_class):
                if count:
                    requests.add_metric([name, f"{hundreds}xx"], count)
            octets.add_metric([name], counts.sent)
            durations.add_metric([name], _cumulative(counts.buckets), counts.seconds)
        limits = CounterMetricFamily("pkiserver_http_limits", "Requests and connections refused", labels=["limit"])
        for hit, count in self._limits.items():
            limits.add_metric([hit.value], count)
        return (
            requests,
            octets,
            durations,
            limits,
            _counter("pkiserver_http_connections", "Connections accepted", self.connections_accepted),
            _counter("pkiserver_http_trailers_dropped", "Trailer fields dropped", self.trailers_dropped),
            _counter("pkiserver_http_cancelled", "Requests whose client left before the answer", self.cancelled),
            GaugeMetricFamily("pkiserver_http_connections_open", "Connections open", self.connections_open),
            GaugeMetricFamily("pkiserver_http_running", "Requests whose handler is waiting", self.running),
        )


def _counter(name: str, documentation: str, value: int) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, value=value)


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total = 0
    pairs = []
    for bound, count in zip((*map(str, _BUCKETS), "+Inf"), buckets, strict=True):
        total += count
        pairs.append((bound, float(total)))
    return pairs
