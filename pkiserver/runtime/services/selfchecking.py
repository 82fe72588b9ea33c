"""Reading our own CRLs and OCSP answers back: the job, what readiness says of it, and its figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pkiserver.authority.status.selfcheck import SelfCheck
from pkiserver.authority.status.turns import Turns
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.health import Finding, Health, NamedCheck
from pkiserver.runtime.services.jobs import Job

_SECONDS = 5.0
"""From one look whether it is time to the next."""
_OVERDUE = 5
"""Intervals after which a check that nobody made is itself told."""


class SelfChecking(Collector):
    """The self-check of one process; all processes of a node tell what one of them found."""

    def __init__(self, engine: Engine, holder: str) -> None:
        settings = engine.settings.self_check
        self._clock = engine.clock
        self._interval = settings.interval
        self._enabled = settings.enabled
        self._started = engine.clock.now()
        self._problems = 0
        self._check = SelfCheck(
            node=engine.settings.node,
            database=engine.database,
            authorities=engine.authorities,
            turns=Turns(engine.database, engine.clock, holder),
            clock=engine.clock,
            interval=settings.interval,
        )

    def jobs(self) -> tuple[Job, ...]:
        """Looking, where it is wanted."""
        return (Job("self-check", _SECONDS, self._run),) if self._enabled else ()

    async def _run(self) -> None:
        await self._check.run_due()
        self._problems = sum(one.problem is not None for one in await self._check.findings())

    def check(self) -> NamedCheck:
        """Everything that was found wrong. A warning: another way to this node may be right, and it may still serve."""

        async def run() -> Sequence[Finding]:
            if not self._enabled:
                return []
            found = await self._check.findings()
            wrong = [
                Finding(
                    f"self-check:{one.subject}", Health.WARNING, f"{one.problem} (seen {one.at:%Y-%m-%d %H:%M:%SZ})"
                )
                for one in found
                if one.problem is not None
            ]
            newest = max((one.at for one in found), default=self._started)
            between = max(self._interval, timedelta(seconds=_SECONDS))
            if found and self._clock.now() - newest > _OVERDUE * between:
                wrong.append(Finding("self-check", Health.WARNING, f"not done since {newest:%Y-%m-%d %H:%M:%SZ}"))
            return wrong or [Finding("self-check", Health.OK, f"{len(found)} answers of ours are as they should be")]

        return NamedCheck("self-check", run)

    def collect(self) -> Iterable[Metric]:
        """The families, for Prometheus."""
        yield GaugeMetricFamily(
            "pkiserver_self_check_problems",
            "CRLs and OCSP answers of ours that a client would not be content with",
            value=self._problems,
        )
