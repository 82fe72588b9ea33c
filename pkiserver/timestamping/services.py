"""Everything about time-stamping that a process has below its protocols, put together once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from pkiserver.audit import AuditLog
from pkiserver.authority.authorities import Authorities
from pkiserver.authority.delegates.ownkeys import OwnKeys
from pkiserver.authority.issue import Issuer
from pkiserver.authority.prepare import Preparer
from pkiserver.authority.status.turns import Turns
from pkiserver.foundation.clock import Clock
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.database import Database
from pkiserver.timestamping.archive import TokenLog
from pkiserver.timestamping.chrony import ChronySource
from pkiserver.timestamping.clockwatch import ClockWatch, SystemSource, TimeSource
from pkiserver.timestamping.keeper import UnitKeeper
from pkiserver.timestamping.library import UnitLibrary
from pkiserver.timestamping.ntp import NtpSource
from pkiserver.timestamping.ordering import OrderTurns
from pkiserver.timestamping.reporter import TimeReporter
from pkiserver.timestamping.serials import SerialBlocks
from pkiserver.timestamping.timesettings import TimeSettings, TimeSourceKind


@attrs.frozen
class TimestampServices:
    """The room's services; each tells by its ``run_due`` how often it wants to be called."""

    library: UnitLibrary
    keeper: UnitKeeper
    watch: ClockWatch
    reporter: TimeReporter
    serials: SerialBlocks
    ordering: OrderTurns
    log: TokenLog

    async def watch_time(self) -> None:
        """Ask the time sources when that is due and note changes; every second."""
        await self.watch.run_due()
        await self.reporter.run_due(self.library.enabled())

    async def take_turns(self) -> None:
        """Take and renew the leases of ordered units; every second."""
        await self.ordering.run_due(unit.name for unit in self.library.enabled() if unit.ordering)

    async def stop(self) -> None:
        """Write what waits, and let other processes go on."""
        await self.log.stop()
        await self.ordering.stop()


def timestamp_services(
    *,
    database: Database,
    audit: AuditLog,
    keys: KeyRing,
    authorities: Authorities,
    preparer: Preparer,
    issuer: Issuer,
    clock: Clock,
    holder: str,
    settings: TimeSettings,
    reactor: Any = None,
) -> TimestampServices:
    """The services of one process; ``holder`` names it in leases."""
    library = UnitLibrary(database)
    turns = Turns(database, clock, holder)
    own = OwnKeys(database, keys, authorities, preparer, issuer, turns, clock)
    watch = ClockWatch(time_sources(settings, clock, reactor), settings, clock)
    return TimestampServices(
        library=library,
        keeper=UnitKeeper(library, own, audit),
        watch=watch,
        reporter=TimeReporter(watch, audit),
        serials=SerialBlocks(database),
        ordering=OrderTurns(database, clock, holder),
        log=TokenLog(database, audit),
    )


def time_sources(settings: TimeSettings, clock: Clock, reactor: Any = None) -> Sequence[TimeSource]:
    """What the settings name."""
    if reactor is None:
        from twisted.internet import reactor
    timeout = settings.timeout.total_seconds()
    made: list[TimeSource] = []
    for kind in settings.sources:
        match kind:
            case TimeSourceKind.CHRONY:
                made.append(ChronySource(settings.chronyc, timeout=timeout, reactor=reactor))
            case TimeSourceKind.NTP:
                made.append(NtpSource(settings.ntp_servers, clock, timeout=timeout, reactor=reactor))
            case TimeSourceKind.SYSTEM:
                made.append(SystemSource())
    return made
