"""Prometheus metrics: those of this process, and all workers' put together.

Each worker counts for itself and shows its counts on a private UNIX socket; whichever worker is asked for ``/metrics``
asks the others there and puts a ``worker`` label on every sample. (prometheus_client's multiprocess mode, the
alternative, writes every count to memory-mapped files that outlive the process, and cannot hold collectors that
compute their figures when asked, which are most of ours.) The labels of all metrics are bounded: names from the
configuration or from enums, never from a request.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from twisted.internet.interfaces import IDelayedCall, IReactorTime

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SAMPLE_SECONDS = 0.02
"""How often the reactor's lateness is measured."""
BLOCKED_SECONDS = 0.005
"""What counts as blocked."""
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


def new_registry(collectors: Iterable[Collector] = ()) -> CollectorRegistry:
    """A registry with the process's own figures (CPU, memory, descriptors, garbage) and ``collectors``."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    for collector in collectors:
        registry.register(collector)
    return registry


def own_metrics(registry: CollectorRegistry) -> str:
    """The text exposition of one process."""
    return generate_latest(registry).decode()


def merge(texts: Mapping[str, str]) -> str:
    """One exposition from several workers', each sample with its worker's name as a label.

    Args:
        texts: Worker name to its own exposition.
    """
    families: dict[str, Metric] = {}
    for worker, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            merged.samples.extend(
                Sample(s.name, {**s.labels, "worker": worker}, s.value, s.timestamp, s.exemplar) for s in family.samples
            )

    class Merged(Collector):
        def collect(self) -> Iterable[Metric]:
            return families.values()

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Merged())
    return generate_latest(registry).decode()


class ReactorLatency(Collector):
    """How late the reactor is: a timer's lateness is what any event that came at that moment had to wait.

    Samples at fixed times see the wait as arriving requests see it, a long block more often than a short one.
    """

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        self._call: IDelayedCall | None = None
        self._due = 0.0
        self._counts = [0] * (len(_BUCKETS) + 1)
        self._sum = 0.0
        self.blocked = 0
        """Samples later than :data:`BLOCKED_SECONDS`."""
        self.longest = 0.0
        """Seconds of the longest lateness since the start."""

    def start(self) -> None:
        """Begin to measure."""
        self._schedule()

    def stop(self) -> None:
        """Measure no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _schedule(self) -> None:
        self._due = self._reactor.seconds() + SAMPLE_SECONDS
        self._call = self._reactor.callLater(SAMPLE_SECONDS, self._sample)

    def _sample(self) -> None:
        late = max(0.0, self._reactor.seconds() - self._due)
        self._counts[sum(late > bound for bound in _BUCKETS)] += 1
        self._sum += late
        self.blocked += late > BLOCKED_SECONDS
        self.longest = max(self.longest, late)
        self._schedule()

    def collect(self) -> Iterable[Metric]:
        """The families, for Prometheus."""
        histogram = HistogramMetricFamily("pkiserver_reactor_latency_seconds", "How late the reactor serves an event")
        total = 0
        buckets = []
        for bound, count in zip((*map(str, _BUCKETS), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        histogram.add_metric([], buckets, self._sum)
        yield histogram
        yield CounterMetricFamily(
            "pkiserver_reactor_blocked", "Samples of reactor latency above 5 ms", value=self.blocked
        )
        yield GaugeMetricFamily(
            "pkiserver_reactor_latency_max_seconds", "Longest reactor latency since the start", value=self.longest
        )
