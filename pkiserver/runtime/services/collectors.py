"""The engine's figures for Prometheus. Labels: names of what is configured and fixed words: their number is bounded."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pkiserver.runtime.engine import Engine
from pkiserver.store.database import DatabaseCounts

_GAUGES = {"waiting_writes", "waiting_reads"}


class EngineMetrics(Collector):
    """Database, keys and authorities of one process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        """The families, for Prometheus."""
        counts = self._engine.database.counts()
        for field in attrs.fields(DatabaseCounts):
            kind = GaugeMetricFamily if field.name in _GAUGES else CounterMetricFamily
            text = f"Database: {field.name.replace('_', ' ')}"
            yield kind(f"pkiserver_database_{field.name}", text, value=getattr(counts, field.name))
        keys = self._engine.keys.list()
        ready = sum(key.ready for key in keys)
        states = GaugeMetricFamily("pkiserver_keys", "Registered keys", labels=["state"])
        states.add_metric(["ready"], ready)
        states.add_metric(["faulty"], len(keys) - ready)
        yield states
        cached = CounterMetricFamily("pkiserver_status_cache", "Questions for records of status", labels=["outcome"])
        for outcome, count in attrs.asdict(self._engine.status.directory.cache.counts).items():
            cached.add_metric([outcome], count)
        yield cached
        yield GaugeMetricFamily(
            "pkiserver_crl_numbers_problem",
            "1 where the CRL numbers that are seen cannot be kept beside the database",
            value=bool(self._engine.status.numbers.problem),
        )
        yield from self._authorities()
        yield from self._connectors()
        away = CounterMetricFamily(
            "pkiserver_requests_turned_away",
            "Requests for which there was no room among those that wait for officers",
            labels=["template", "bound"],
        )
        for (template, bound), count in sorted(self._engine.approvals.turned_away.counts.items()):
            away.add_metric([template, str(bound)], count)
        yield away

    def _connectors(self) -> Iterable[Metric]:
        answers = CounterMetricFamily(
            "pkiserver_connector_answers", "What connectors said of credentials", labels=["connector", "answer"]
        )
        for (connector, answer), count in sorted(self._engine.connectors.answers().items()):
            answers.add_metric([connector, answer], count)
        busy = GaugeMetricFamily(
            "pkiserver_connector_busy", "Questions that a connector has not answered yet", labels=["connector"]
        )
        for connector, count in sorted(self._engine.connectors.busy().items()):
            busy.add_metric([connector], count)
        yield answers
        yield busy

    def _authorities(self) -> Iterable[Metric]:
        ends = GaugeMetricFamily(
            "pkiserver_authority_not_after_seconds",
            "When the CA certificate ends (Unix time)",
            labels=["authority"],
        )
        problems = GaugeMetricFamily(
            "pkiserver_authority_problems", "Duties that an authority cannot do now", labels=["authority"]
        )
        told = [one.authority for one in self._engine.authorities.problems()]
        told += [one.authority for one in self._engine.status.problems()]
        for authority in self._engine.authorities.list():
            ca = authority.current.ca
            if ca is not None:
                ends.add_metric([authority.name], ca.certificate.not_valid_after_utc.timestamp())
            problems.add_metric([authority.name], told.count(authority.name))
        yield ends
        yield problems
