"""Put the engine and the protocols together: what a worker of the real server serves."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pkiserver.authority.checks.lint  # noqa: F401  # the first certificate would: here it is loaded faster, with the rest
from pkiserver.authority.status.turns import Turns
from pkiserver.registration.guesses import FLUSH_SECONDS
from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.runtime.services.addressbook import AddressBookService
from pkiserver.runtime.services.application import Application
from pkiserver.runtime.services.checkpoints import Checkpoints
from pkiserver.runtime.services.checks import (
    authorities_check,
    clock_check,
    crl_check,
    database_check,
    keys_check,
    numbers_check,
)
from pkiserver.runtime.services.collectors import EngineMetrics
from pkiserver.runtime.services.crltargets import CrlTargets
from pkiserver.runtime.services.estservice import Est
from pkiserver.runtime.services.handover import ocsp_settings
from pkiserver.runtime.services.jobs import Job
from pkiserver.runtime.services.outward import OutwardPublishing
from pkiserver.runtime.services.scepservice import Scep
from pkiserver.runtime.services.schemawatch import SECONDS as SCHEMA_SECONDS
from pkiserver.runtime.services.schemawatch import SchemaWatch
from pkiserver.runtime.services.selfchecking import SelfChecking
from pkiserver.runtime.services.statusfeed import notifications
from pkiserver.runtime.services.timestamps import Timestamps
from pkiserver.runtime.services.troubles import SECONDS as TROUBLE_SECONDS
from pkiserver.runtime.services.troubles import TroubleLog, troubles_of
from pkiserver.runtime.services.upkeep import ConfigurationFollower, clean, retire_ended
from pkiserver.runtime.services.validation import Validation
from protocols.crl import edge as crl
from protocols.management.edge import Api
from protocols.ocsp import edge as ocsp


@asynccontextmanager
async def open_application(settings: NodeSettings, worker: str) -> AsyncIterator[Application]:
    """The engine for a node's settings, with every protocol over it; closed when the block ends.

    Raises:
        Rejected: the settings or the database forbid serving.
        Unavailable: the database is away.
    """
    async with open_engine(settings, worker=worker) as engine:
        holder = f"{settings.node}/{worker}/{os.getpid()}"
        checkpoints = Checkpoints(engine, settings.audit.checkpoint_interval, holder)
        follower = ConfigurationFollower(engine)
        listening = notifications(engine, follower)
        troubles = TroubleLog(lambda: troubles_of(engine))
        await troubles.run_due()
        engine.road.preparer.warm_up()
        timestamps = Timestamps(engine, worker)
        await timestamps.start()
        est = Est(engine, settings.est)
        scep = Scep(engine, settings.scep)
        addressbook = AddressBookService(engine, settings.ldap)
        validation = Validation(engine, holder)
        await validation.start()
        targets = CrlTargets(engine, holder)
        self_check = SelfChecking(engine, holder)
        outward = OutwardPublishing(engine, holder)
        parts = (timestamps, est, scep, validation, targets, self_check, outward)
        yield Application(
            http=(
                *ocsp.routes(validation.source, engine.clock, ocsp_settings(settings.ocsp)),
                *crl.routes(engine.status.publications, engine.clock, crl.CrlSettings()),
                *timestamps.routes(),
                *scep.routes(),
                *addressbook.routes(),
            ),
            https=(
                *est.routes(),
                *timestamps.routes(),
                *scep.routes(),
                *addressbook.routes(),
            ),
            api=Api(engine).resource() if settings.api.listen else None,
            checks=(
                database_check(engine.database, lambda: engine.road.recovery.trouble),
                keys_check(engine.keys),
                authorities_check(engine.authorities, lambda: [*_status_problems(engine), *scep.problems()]),
                crl_check(engine.database, engine.authorities, engine.clock),
                numbers_check(engine.status.numbers),
                clock_check(engine.database, engine.clock, is_sqlite=settings.database.is_sqlite),
                *(one.check() for one in parts),
            ),
            collectors=(EngineMetrics(engine), targets, self_check, outward, timestamps, scep, addressbook.metrics),
            jobs=(
                *_engine_jobs(engine, holder, follower),
                Job("audit-checkpoint", 30.0, checkpoints.run_due),
                Job("troubles", TROUBLE_SECONDS, troubles.run_due),
                Job("schema", SCHEMA_SECONDS, SchemaWatch(engine.database).look),
                *addressbook.jobs(),
                *(job for one in parts for job in one.jobs()),
            ),
            ldap=addressbook.service,
        )
        await outward.stop()
        listening.stop()
        await timestamps.stop()


def _engine_jobs(engine: Engine, holder: str, follower: ConfigurationFollower) -> tuple[Job, ...]:
    """What has to be done whatever is served: follow the feeds, issue what is due, tidy up."""
    turns = Turns(engine.database, engine.clock, holder)
    return (
        Job("status-feed", 0.05, engine.status.directory.cache.poll),
        Job("crl", 1.0, engine.status.schedule.run_due),
        Job("ocsp-responders", 60.0, lambda: _keep_responders(engine)),
        Job("configuration", 0.5, follower.follow),
        Job("keys-at-fault", 15.0, follower.refresh),
        Job("upkeep", 3600.0, lambda: clean(engine, turns)),
        Job("guesses", FLUSH_SECONDS, engine.gate.guesses.flush),
        Job("ended-keys", 3600.0, lambda: retire_ended(engine, turns)),
    )


def _status_problems(engine: Engine) -> Iterable[tuple[str, str]]:
    return [(problem.authority, problem.text) for problem in engine.status.problems()]


async def _keep_responders(engine: Engine) -> None:
    await engine.status.responders.run_due()
    await engine.status.directory.refresh()
