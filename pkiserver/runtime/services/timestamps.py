"""Time-stamping in a serving process: routes, jobs, checks, counts, and the engine as its access control sees it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import attrs
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.logger import Logger

from pkiserver.foundation.errors import PkiError, Rejected
from pkiserver.registration.identities import Identity
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.health import Finding, Health, NamedCheck
from pkiserver.runtime.services.jobs import Job
from pkiserver.store import outbox
from pkiserver.store.outbox import Feed
from pkiserver.timestamping.archive import FLUSH_SECONDS
from pkiserver.timestamping.clockwatch import Trouble
from pkiserver.timestamping.services import TimestampServices, timestamp_services
from protocols.timestamp.access import AccessControl, Client, ShownEvidence
from protocols.timestamp.directory import UnitDirectory
from protocols.timestamp.edge import routes
from protocols.timestamp.service import TimestampService
from protocols.web.values import Route

_log = Logger(namespace="pkiserver.timestamping")
_GUESSED = ":timestamp"
"""Under which wrong guesses are counted; no template has such a name."""


@attrs.frozen
class EngineClients:
    """Identifies clients by the registration gate's own means."""

    engine: Engine

    async def identify(self, evidence: ShownEvidence, source: str) -> Client:
        """Whom the evidence shows; raises :class:`Rejected` or :class:`Unavailable`."""
        gate = self.engine.gate
        await gate.guesses.check(_GUESSED, source)
        found = await gate.identifier.who(evidence)
        if not isinstance(found, Identity):
            await gate.guesses.wrong(_GUESSED, source)
            raise Rejected((found,))
        gate.guesses.right(source)
        return Client(found.name, found.groups)


def services_of(engine: Engine, worker: str) -> TimestampServices:
    """The time-stamping services over an engine."""
    return timestamp_services(
        database=engine.database,
        audit=engine.audit,
        keys=engine.keys,
        authorities=engine.authorities,
        preparer=engine.road.preparer,
        issuer=engine.road.issuer,
        clock=engine.clock,
        holder=f"{engine.settings.node}/{worker}/{os.getpid()}",
        settings=engine.settings.time,
    )


class Timestamps(Collector):
    """Time-stamping of one process."""

    def __init__(self, engine: Engine, worker: str) -> None:
        self._engine = engine
        self._seen: tuple[int, int, int] | None = None
        self.services = services_of(engine, worker)
        services = self.services
        self.directory = UnitDirectory(services.library, engine.database, engine.keys, engine.authorities, engine.clock)
        self.service = TimestampService(services.watch, services.serials, services.log, services.ordering)
        self.access = AccessControl(EngineClients(engine), engine.clock)

    def routes(self) -> Sequence[Route]:
        """For both listeners."""
        return routes(self.directory, self.service, self.access)

    def jobs(self) -> Sequence[Job]:
        """What is to be done over and over."""
        return (
            Job("timestamp-time", 1.0, self.services.watch_time),
            Job("timestamp-serials", 1.0, self.services.serials.run_due),
            Job("timestamp-turns", 1.0, self.services.take_turns),
            Job("timestamp-log", FLUSH_SECONDS, self.services.log.flush),
            Job("timestamp-units", 30.0, self.keep_units),
            Job("timestamp-feed", 0.5, self._follow),
        )

    async def start(self) -> None:
        """Be ready to answer before the listeners open, as far as that can be had now."""
        for step in (
            self.keep_units,
            self.services.serials.run_due,
            self.services.watch_time,
            self.services.take_turns,
        ):
            try:
                await step()
            except PkiError as error:  # the jobs try again
                _log.warn("time-stamping is not ready yet: {why}", why=str(error))

    async def stop(self) -> None:
        """Write what waits, and let other processes go on."""
        await self.services.stop()

    async def keep_units(self) -> None:
        """Give units what they need, and take up what has changed."""
        await self.services.library.refresh()
        await self.services.keeper.run_due()
        await self.directory.refresh()

    async def _follow(self) -> None:
        """Take up what the feeds tell of, without waiting for the next round: changed units, withdrawn certificates."""
        database = self._engine.database
        configuration, status = await database.read(
            lambda connection: (outbox.current(connection, Feed.CONFIGURATION), outbox.current(connection, Feed.STATUS))
        )
        seen = (configuration, status, database.losses)
        before = self._seen or (None, None, None)
        withdrawn = seen[1:] != before[1:] and await self.directory.stop_withdrawn()
        if withdrawn or (configuration, seen[2]) != (before[0], before[2]):
            await self.keep_units()
        self._seen = seen

    # -- what is told ------------------------------------------------------------------------------------------------

    def check(self) -> NamedCheck:
        """Every unit by name: whether it can sign, and whether it knows the time."""

        async def run() -> Sequence[Finding]:
            return list(self._findings())

        return NamedCheck("timestamp", run)

    def _findings(self) -> Iterable[Finding]:
        problems = {one.unit: one.text for one in self.services.keeper.problems()}
        problems |= {one.unit: one.text for one in self.directory.problems()}
        for name, text in sorted(problems.items()):
            yield Finding(f"tsa:{name}", Health.WARNING, text)
        for active in self.directory.list():
            name, key = active.unit.name, active.credential.key_name
            if not self._engine.keys.is_ready(key):
                text = f"key {key} cannot be used; if it is lost, `pkiserver timestamp unit renew {name}` makes another"
                yield Finding(f"tsa:{name}", Health.WARNING, text)
            error = self.services.watch.trouble(active.unit.clock_error)
            if error is not None:
                yield Finding(f"tsa:{name}:time", Health.WARNING, f"no time-stamps: {error.text}")
        if self.directory.list() and self.services.watch.is_trusting:
            text = "the machine's clock is trusted without asking anybody (time source 'system')"
            yield Finding("tsa:time", Health.WARNING, text)

    def collect(self) -> Iterable[Metric]:
        """Counts of answers, and the state of the time."""
        answers = CounterMetricFamily(
            "pkiserver_timestamp_answers", "Answers to time-stamp requests.", labels=("unit", "outcome")
        )
        for (unit, outcome), count in self.service.counts.items():
            answers.add_metric((unit, outcome), count)
        yield answers
        verdict = self.services.watch.verdict
        error = self.services.watch.trouble(float("inf"))
        state = GaugeMetricFamily(
            "pkiserver_time_trouble", "1 for the reason why no time can be told now.", labels=("reason",)
        )
        for trouble in Trouble:
            state.add_metric((str(trouble),), float(error is not None and error.trouble is trouble))
        yield state
        yield GaugeMetricFamily(
            "pkiserver_time_offset_seconds", "By how much the true time was ahead of the clock.", value=verdict.offset
        )
        yield GaugeMetricFamily("pkiserver_time_error_seconds", "Bound of the clock's error.", value=verdict.error)
        waiting = GaugeMetricFamily(
            "pkiserver_timestamp_log_waiting", "Entries of the time-stamp log that are not durable yet."
        )
        waiting.add_metric((), float(self.services.log.waiting))
        yield waiting
