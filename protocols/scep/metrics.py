"""What SCEP counts: answers by status, and every use of an old algorithm. Labels are templates' names and enums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from pkiserver.authority.templates.model import LegacyAlgorithm
from protocols.scep.messages import MessageType, PkiStatus


class ScepMetrics(Collector):
    """Counts of one process."""

    def __init__(self) -> None:
        self._answers: Counter[tuple[str, str, str]] = Counter()
        self._legacy: Counter[tuple[str, str]] = Counter()

    def answered(self, template: str, kind: MessageType | None, status: PkiStatus) -> None:
        """Count one CertRep; ``kind`` is None for types that no client may send."""
        self._answers[template, "other" if kind is None else kind.name.lower(), status.name.lower()] += 1

    def legacy(self, template: str, algorithm: LegacyAlgorithm) -> None:
        """Count one use of an old algorithm."""
        self._legacy[template, algorithm.value] += 1

    def legacy_count(self, template: str, algorithm: LegacyAlgorithm) -> int:
        """How often it was used."""
        return self._legacy[template, algorithm.value]

    def collect(self) -> Iterable[Metric]:
        """The families, for Prometheus."""
        answers = CounterMetricFamily(
            "pkiserver_scep_answers", "SCEP answers (CertRep)", labels=["template", "message", "status"]
        )
        for labels, count in sorted(self._answers.items()):
            answers.add_metric(labels, count)
        yield answers
        legacy = CounterMetricFamily(
            "pkiserver_scep_legacy", "Uses of old algorithms by SCEP clients", labels=["template", "algorithm"]
        )
        for pair, count in sorted(self._legacy.items()):
            legacy.add_metric(pair, count)
        yield legacy
