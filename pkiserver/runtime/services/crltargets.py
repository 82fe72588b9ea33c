"""The targets that a node brings CRLs to: their jobs, what readiness says of them, and their figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pkiserver.authority.delivery.service import TargetDeliveries
from pkiserver.authority.status.turns import Turns
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.health import Finding, Health, NamedCheck
from pkiserver.runtime.services.jobs import Job

_SECONDS = 2.0
"""From one look at what a target lacks to the next."""


class CrlTargets(Collector):
    """All targets of one process, each with a job of its own so that none waits for another."""

    def __init__(self, engine: Engine, holder: str) -> None:
        turns = Turns(engine.database, engine.clock, holder)
        self._targets = tuple(
            TargetDeliveries(
                target,
                node=engine.settings.node,
                database=engine.database,
                authorities=engine.authorities,
                turns=turns,
                clock=engine.clock,
            )
            for target in engine.settings.crl_target
        )

    def jobs(self) -> tuple[Job, ...]:
        """One for each target."""
        return tuple(Job(f"crl-target:{one.standing.name}", _SECONDS, one.run_due) for one in self._targets)

    def check(self) -> NamedCheck:
        """Each target. One that fails is a warning: the lists are served here all the same."""

        async def run() -> Sequence[Finding]:
            return [self._finding(one) for one in self._targets]

        return NamedCheck("crl-targets", run)

    @staticmethod
    def _finding(one: TargetDeliveries) -> Finding:
        standing = one.standing
        name = f"crl-target:{standing.name}"
        if standing.problem is None:
            return Finding(name, Health.OK, f"lists to be delivered: {standing.waiting}")
        failed = f"failed {standing.failing_for} times, " if standing.failing_for else ""
        text = f"{failed}lists to be delivered: {standing.waiting}: {standing.problem}"
        return Finding(name, Health.WARNING, text)

    def collect(self) -> Iterable[Metric]:
        """The families, for Prometheus."""
        waiting = GaugeMetricFamily(
            "pkiserver_crl_target_waiting", "CRLs that the target has not been brought yet", labels=["target"]
        )
        failures = GaugeMetricFamily(
            "pkiserver_crl_target_failures", "Tries in a row that have failed at the target", labels=["target"]
        )
        for one in self._targets:
            waiting.add_metric([one.standing.name], one.standing.waiting)
            failures.add_metric([one.standing.name], one.standing.failing_for)
        yield waiting
        yield failures
