"""SCEP as the composition wants it: routes, jobs, what to warn about, what is counted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from pkiserver.authority.templates.weaknesses import weaknesses
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.health import NamedCheck
from pkiserver.runtime.protocolsettings import ScepNodeSettings
from pkiserver.runtime.services.jobs import Job
from pkiserver.runtime.services.remarks import Remarks, missing_default
from pkiserver.runtime.services.scepport import ScepPort
from protocols.scep.edge import routes
from protocols.scep.metrics import ScepMetrics
from protocols.scep.ports import ScepSettings
from protocols.web.values import Route

KEEPER_SECONDS = 60.0
CLEANING = timedelta(hours=6)


class Scep(Collector):
    """SCEP over an engine."""

    def __init__(self, engine: Engine, settings: ScepNodeSettings) -> None:
        self.port = ScepPort(engine)
        self._metrics = ScepMetrics()
        self._settings = ScepSettings(
            default_template=settings.default_template,
            password_parallel=settings.password_parallel,
            password_waiting=settings.password_waiting,
        )
        self._remarks = Remarks("scep", self._look, lambda: f"{len(self.port.templates())} templates")

    def routes(self) -> Sequence[Route]:
        """For plain HTTP and for TLS."""
        return routes(self.port, self._settings, self._metrics)

    def jobs(self) -> tuple[Job, ...]:
        """The upkeep of registration authorities and transactions."""
        return (
            Job("scep-ra", KEEPER_SECONDS, self._keep),
            Job("scep-transactions", CLEANING.total_seconds(), self.port.transactions.forget_old),
        )

    def problems(self) -> Iterable[tuple[str, str]]:
        """Authorities without a registration authority that works, and why."""
        return [(one.authority, one.text) for one in self.port.problems()]

    def check(self) -> NamedCheck:
        """What templates switch on that is weak, and whether the paths without a name have one."""
        return self._remarks.check()

    def collect(self) -> Iterable[Metric]:
        """The families, for Prometheus."""
        return self._metrics.collect()

    async def _keep(self) -> None:
        await self._remarks.tell()
        await self.port.keep()

    def _look(self) -> Iterable[str]:
        found = self.port.templates()
        yield from missing_default("scep", self._settings.default_template, {one.name for one in found})
        for template in found:
            yield from weaknesses(template)
