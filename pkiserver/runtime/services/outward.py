"""Publishing outwards in one process: a runner for each directory and connector, readiness, figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkiserver.authority.delivery.queue import Bearer, QueueRunner
from pkiserver.authority.status.turns import Turns
from pkiserver.foundation.errors import PkiError
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.health import Finding, Health, NamedCheck
from pkiserver.runtime.services.jobs import Job
from pkiserver.store.publication import outward

SECONDS = 2.0
"""From one look at the queue to the next."""
_log = Logger(namespace="pkiserver.outward")


class OutwardPublishing(Collector):
    """Runs each target by itself, so that one that is slow or away delays no other."""

    def __init__(self, engine: Engine, holder: str) -> None:
        self._engine = engine
        self._turns = Turns(engine.database, engine.clock, holder)
        self._runners: dict[str, QueueRunner] = {}
        self._running: dict[str, Deferred[int]] = {}
        self._complained: set[str] = set()

    def jobs(self) -> tuple[Job, ...]:
        """What looks at the queue, and what throws away that which nobody will fetch."""
        return (Job("outward", SECONDS, self.run_due), Job("outward-upkeep", 3600.0, self.forget))

    async def run_due(self) -> None:
        """Start every target that is not being worked on; returns at once."""
        self._follow()
        for key, runner in self._runners.items():
            if key not in self._running:
                work = Deferred.fromCoroutine(runner.run_due())
                self._running[key] = work
                work.addBoth(self._ended, key)

    @property
    def busy(self) -> frozenset[str]:
        """The targets that are being worked on."""
        return frozenset(self._running)

    async def forget(self) -> None:
        """Remove what is queued for targets that are no more; raises :class:`Unavailable`."""
        engine = self._engine
        known = {outward.connector_key(one.name) for one in engine.connectors.list()}
        known |= {outward.connector_key(one.connector) for one in engine.connectors.problems()}
        known |= {outward.directory_key(one.directory) for one in engine.directories.problems()}
        known |= {one.key for one in engine.directories.list()}

        def work(connection: Connection) -> None:
            for key in set(outward.targets(connection)) - known:
                outward.forget(connection, key)

        await engine.database.write(work)

    async def stop(self) -> None:
        """Give up what is under way; it stands in the queue."""
        for work in tuple(self._running.values()):
            work.cancel()

    def check(self) -> NamedCheck:
        """Each target. One that fails is a warning: certificates are issued and shown here all the same."""

        async def run() -> Sequence[Finding]:
            found = [self._finding(key, runner) for key, runner in self._runners.items()]
            found += [
                Finding(outward.directory_key(one.directory), Health.WARNING, one.text)
                for one in self._engine.directories.problems()
            ]
            return found

        return NamedCheck("outward", run)

    def collect(self) -> Iterable[Metric]:
        """The families, for Prometheus."""
        waiting = GaugeMetricFamily("pkiserver_outward_waiting", "Changes not yet at the target", labels=["target"])
        refused = GaugeMetricFamily("pkiserver_outward_refused", "Those that it did not take", labels=["target"])
        failures = GaugeMetricFamily(
            "pkiserver_outward_failures", "Tries in a row that have failed at the target as a whole", labels=["target"]
        )
        for key, runner in self._runners.items():
            waiting.add_metric([key], runner.standing.waiting)
            refused.add_metric([key], runner.standing.refused)
            failures.add_metric([key], runner.standing.attempts)
        yield from (waiting, refused, failures)

    def _follow(self) -> None:
        """A runner for each target of now; one whose settings changed gets a new one when the old one is done."""
        engine = self._engine
        bearers: list[Bearer] = [one for one in engine.directories.list() if one.directory.enabled]
        bearers += engine.copies.bearers()
        bearers += engine.reports.bearers()
        runners: dict[str, QueueRunner] = {}
        for one in bearers:
            known = self._runners.get(one.key)
            keep = known is not None and (known.bearer == one or one.key in self._running)
            runners[one.key] = known if known and keep else QueueRunner(one, engine.database, self._turns, engine.clock)
        self._runners = runners

    def _ended(self, result: int | Failure, key: str) -> None:
        del self._running[key]
        if not isinstance(result, Failure):
            self._complained.discard(key)
        elif not isinstance(result.value, CancelledError) and key not in self._complained:
            self._complained.add(key)
            if isinstance(result.value, PkiError):
                _log.warn("{target}: {why}; trying again", target=key, why=result.getErrorMessage())
            else:
                _log.failure("{target} failed", failure=result, target=key)

    @staticmethod
    def _finding(key: str, runner: QueueRunner) -> Finding:
        now = runner.standing
        count = f"changes waiting: {now.waiting}, refused: {now.refused}"
        if now.problem is not None:
            return Finding(key, Health.WARNING, f"failed {now.attempts} times, {count}: {now.problem}")
        return Finding(key, Health.WARNING if now.refused else Health.OK, count)
