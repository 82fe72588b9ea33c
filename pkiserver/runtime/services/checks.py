"""What readiness asks of the engine's parts, each thing by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, text

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.status.knownnumbers import KnownNumbers
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.keys.keyring import KeyRing
from pkiserver.runtime.health import Finding, Health, NamedCheck
from pkiserver.runtime.logging import NodeLog
from pkiserver.store.authority import crl_history, crls
from pkiserver.store.authority.authorities import GenerationState
from pkiserver.store.authority.crls import CrlKind, CrlScope
from pkiserver.store.database import Database
from pkiserver.store.failures import told_in_full

CLOCK_WARNING = timedelta(seconds=2)
CLOCK_FAILED = timedelta(seconds=60)
"""How far this node's clock may be from the database's, or step by itself."""
STEP_TOLD = timedelta(minutes=10)
"""A clock that was wrong when the node started, and was then set right, must not be told for ever."""


def database_check(database: Database, writing: Callable[[], str]) -> NamedCheck:
    """A round trip to the database, and whether it takes what is written.

    Args:
        database: To be asked.
        writing: Why the process's last sign of life could not be written; empty when it could.
    """

    async def run() -> Sequence[Finding]:
        try:
            await database.read(lambda connection: connection.execute(text("SELECT 1")).scalar())
        except Unavailable as error:
            return [Finding("database", Health.FAILED, told_in_full(error))]
        why = writing()
        if why:  # status is still told, time is still stamped: a warning, as where some keys are away
            return [Finding("database", Health.WARNING, f"answers, but takes nothing, so nothing is issued: {why}")]
        return [Finding("database", Health.OK, "answers")]

    return NamedCheck("database", run)


def log_check(log: NodeLog) -> NamedCheck:
    """Whether the log takes what is written now. It is no reason to send requests elsewhere."""

    async def run() -> Sequence[Finding]:
        if not log.untold:
            return [Finding("log", Health.OK, f"goes to {log.target}")]
        return [Finding("log", Health.WARNING, f"{log.target} has not taken the last {log.untold} events")]

    return NamedCheck("log", run)


def keys_check(keys: KeyRing) -> NamedCheck:
    """Every key and token by name. While some keys work the node is ready: those who need another are told so."""

    async def run() -> Sequence[Finding]:
        problems = keys.problems()
        if not problems:
            return [Finding("keys", Health.OK, f"{len(keys.list())} keys can be used")]
        broken = {problem.name for problem in problems}
        some = any(key.name not in broken for key in keys.list())
        health = Health.WARNING if some else Health.FAILED
        return [Finding(f"key:{problem.name}", health, problem.text) for problem in problems]

    return NamedCheck("keys", run)


def authorities_check(authorities: Authorities, status_problems: Callable[[], Iterable[tuple[str, str]]]) -> NamedCheck:
    """Every authority that cannot do a duty of its own, with the reason."""

    async def run() -> Sequence[Finding]:
        problems = [(one.authority, one.text) for one in authorities.problems()]
        problems += status_problems()
        if not problems:
            return [Finding("authorities", Health.OK, f"{len(authorities.list())} authorities")]
        return [Finding(f"ca:{name}", Health.WARNING, text) for name, text in problems]

    return NamedCheck("authorities", run)


def crl_check(database: Database, authorities: Authorities, clock: Clock) -> NamedCheck:
    """The age of each authority's newest CRLs: past nextUpdate, relying parties reject everything."""

    async def run() -> Sequence[Finding]:
        updates = await database.read(_next_updates)
        now = clock.now()
        findings = []
        for authority in authorities.list():
            for generation in authority.generations:
                if generation.state is GenerationState.RETIRED:
                    continue
                distribution = authorities.distribution(authority, generation)
                ends = [end for scope, end in updates.get(generation.id, ()) if distribution.is_kept_up(scope)]
                if ends:
                    switched_off = generation.key_name is not None and not authority.settings.crl.enabled
                    findings.append(_crl_finding(authority.name, min(ends), now, switched_off=switched_off))
        return findings

    return NamedCheck("crl", run)


def numbers_check(numbers: KnownNumbers) -> NamedCheck:
    """Whether this node keeps the CRL numbers that it sees: lists are issued all the same."""

    async def run() -> Sequence[Finding]:
        if not numbers.problem:
            return [Finding("crl-numbers", Health.OK, "kept beside the database")]
        return [Finding("crl-numbers", Health.WARNING, f"not kept beside the database: {numbers.problem}")]

    return NamedCheck("crl-numbers", run)


def _next_updates(connection: Connection) -> dict[int, list[tuple[CrlScope, datetime]]]:
    """When the newest complete list of each scope ends, by key generation."""
    found: dict[int, list[tuple[CrlScope, datetime]]] = {}
    numbers = crl_history.newest_numbers(connection)
    for scope in crls.scopes(connection):
        number = numbers.get((scope.id, CrlKind.COMPLETE))
        newest = None if number is None else crl_history.record(connection, scope.id, number)
        if newest is not None:
            found.setdefault(scope.generation_id, []).append((scope, newest.next_update))
    return found


def _crl_finding(authority: str, next_update: datetime, now: datetime, *, switched_off: bool) -> Finding:
    name = f"crl:{authority}"
    if next_update <= now and switched_off:  # somebody wanted it so; the node serves all the same
        text = f"crl.enabled is false, and the newest CRL ended at {next_update:%Y-%m-%d %H:%M:%SZ}"
        return Finding(name, Health.WARNING, text)
    if next_update <= now:
        return Finding(name, Health.FAILED, f"the newest CRL ended at {next_update:%Y-%m-%d %H:%M:%SZ}")
    return Finding(name, Health.OK, f"valid until {next_update:%Y-%m-%d %H:%M:%SZ}")


class _Steady:
    """The wall clock's steady run. A step is told for :data:`STEP_TOLD`; then the clock as it is counts as right."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        self._start, self._steady = self._clock.now(), self._clock.monotonic()
        self._step = timedelta()
        self._noticed = self._steady

    def step(self) -> timedelta:
        """How far the clock is from its steady run, without the sign."""
        now = self._clock.monotonic()
        found = self._clock.now() - self._start - timedelta(seconds=now - self._steady)
        if abs(found - self._step) >= CLOCK_WARNING:
            self._step, self._noticed = found, now
        elif abs(found) >= CLOCK_WARNING and now - self._noticed >= STEP_TOLD.total_seconds():
            self._begin()
            return timedelta()
        return abs(found)


def clock_check(database: Database, clock: Clock, *, is_sqlite: bool) -> NamedCheck:
    """The wall clock against its own steady run and, on PostgreSQL, against the database's."""
    steady = _Steady(clock)

    async def run() -> Sequence[Finding]:
        findings = [_clock_finding("clock", steady.step(), "it stepped")]
        if not is_sqlite:
            query = text("SELECT clock_timestamp()")
            theirs = await database.read(lambda connection: connection.execute(query).scalar_one())
            findings.append(
                _clock_finding("clock:database", abs(clock.now() - theirs), "it differs from the database's")
            )
        return findings

    return NamedCheck("clock", run)


def _clock_finding(name: str, difference: timedelta, what: str) -> Finding:
    if difference < CLOCK_WARNING:
        return Finding(name, Health.OK, "steady" if name == "clock" else "agrees")
    health = Health.FAILED if difference > CLOCK_FAILED else Health.WARNING
    return Finding(name, health, f"{what} by {difference.total_seconds():.1f} s")
