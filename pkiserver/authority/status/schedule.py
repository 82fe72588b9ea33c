"""When a CRL is due, and the periodic task that issues it: any process may, one does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection
from twisted.logger import Logger

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.crl import Cause, CrlIssuer, CrlStanding, Parts, issues_crls
from pkiserver.authority.model import Authority, Generation
from pkiserver.authority.status.crlmaking import scope_range
from pkiserver.authority.status.knownnumbers import KnownNumbers
from pkiserver.authority.status.policy import CLOCK_STEP, CrlPolicy
from pkiserver.authority.status.turns import StatusProblem, Turn, Turns
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Rejected, Unavailable
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.authority import crl_content, crl_history, crls, status
from pkiserver.store.authority.crl_content import ChangedGroup, Range
from pkiserver.store.authority.crl_history import CrlRecord
from pkiserver.store.authority.crls import FULL_SCOPE, Crl, CrlKind, CrlScope
from pkiserver.store.database import Database

_ACTOR = "system"
_TURN_SECONDS = 30.0
"""How long lists are issued in one turn; those that are left are issued in the next."""


def due(policy: CrlPolicy, standing: CrlStanding, now: datetime) -> tuple[Cause, Parts] | None:
    """Why a list is to be issued now, and which; None when it is not yet time."""
    newest = standing.newest
    if (
        newest is None
        or now < newest.this_update - CLOCK_STEP
        or now >= _successor_due(newest, policy.interval, policy.validity)
    ):
        # A list from the future, after the clock was set back, is of no use to anybody whose clock is right.
        return Cause.SCHEDULE, Parts.COMPLETE
    if policy.delta is not None:
        last, delta = standing.delta, policy.delta
        if last is None or last.number < newest.number or now >= _successor_due(last, delta.interval, delta.validity):
            return Cause.SCHEDULE, Parts.DELTA
    if policy.on_revocation and standing.changed is not None and now >= standing.changed + policy.gather:
        only_delta = policy.delta is not None and not policy.delta.complete_on_revocation
        return Cause.REVOCATION, Parts.DELTA if only_delta else Parts.COMPLETE
    return None


def _successor_due(last: CrlRecord, interval: timedelta, validity: timedelta) -> datetime:
    """When the list after ``last`` is due: an interval after it, and as long before its end as lists overlap.

    Both are the same moment unless the settings were others when it was issued.
    """
    return min(last.this_update + interval, last.next_update - (validity - interval))


@attrs.frozen
class _Known:
    """A scope as of the last look: its newest lists, up to which change they go, and the first change after that."""

    scope: CrlScope
    within: Range
    complete: CrlRecord
    delta: CrlRecord | None
    changed: tuple[int, datetime] | None

    @property
    def shown(self) -> int:
        last = self.complete
        if self.delta is not None and self.delta.number > last.number:
            last = self.delta
        return last.status_seq

    def numbers(self) -> tuple[int, int | None]:
        return self.complete.number, None if self.delta is None else self.delta.number

    def standing(self) -> CrlStanding:
        return CrlStanding(self.complete, None if self.changed is None else self.changed[1], self.delta)


@attrs.frozen
class _Look:
    """What all scopes are at one moment; ``seq`` is the last change of status that it knows of."""

    seq: int = 0
    known: Mapping[int, _Known] = attrs.Factory(dict)
    scopes: Mapping[int, tuple[CrlScope, ...]] = attrs.Factory(dict)


class CrlScheduler:
    """Looks at every list of every key generation and issues what is due."""

    _log = Logger()

    def __init__(  # noqa: PLR0917 - made in one place
        self,
        database: Database,
        issuer: CrlIssuer,
        keys: KeyRing,
        authorities: Authorities,
        turns: Turns,
        clock: Clock,
        numbers: KnownNumbers,
    ) -> None:
        self._database = database
        self._issuer = issuer
        self._keys = keys
        self._authorities = authorities
        self._turns = turns
        self._clock = clock
        self._look = _Look()
        self._losses = -1
        self._compared = False
        self._numbers = numbers
        self._problems: dict[int, StatusProblem] = {}

    def problems(self) -> tuple[StatusProblem, ...]:
        """What went wrong at the last try, by generation; empty when all is well."""
        return tuple(self._problems.values())

    async def run_due(self) -> tuple[Crl, ...]:
        """Issue every list that is due and no other process issues; a key that fails does not delay the others."""
        await self._look_again()
        issued: list[Crl] = []
        for authority in self._authorities.list():
            for generation in authority.generations:
                if not issues_crls(authority, generation):
                    self._problems.pop(generation.id, None)
                    continue
                try:
                    issued += await self._look_after(authority, generation)
                except PkiError as error:
                    self._failed(authority, generation, error)
                else:
                    if self._problems.pop(generation.id, None) is not None:
                        self._log.info("{name}: CRLs can be issued again", name=authority.name)
        return tuple(issued)

    def _failed(self, authority: Authority, generation: Generation, error: PkiError) -> None:
        problem = StatusProblem(authority.name, f"CRL: {error}")
        if self._problems.get(generation.id) != problem:  # it is tried again every second
            self._log.warn("{name}: no CRL: {why}", name=authority.name, why=str(error))
        self._problems[generation.id] = problem

    async def issue_now(
        self,
        authority: Authority,
        generation: Generation,
        *,
        actor: str,
        scope: str = FULL_SCOPE,
        parts: Parts = Parts.COMPLETE,
    ) -> Crl:
        """Issue a list on demand.

        Raises:
            Rejected: This server cannot issue lists for the generation.
            Unavailable: Key or database are away, or another process is issuing this moment.
        """
        async with self._turns.turn(f"crl:{generation.id}") as turn:
            if turn is None:
                raise Unavailable("another process is issuing this CRL", retry_after=5)
            self._require_able(generation)
            await self._look_again()
            wanted = {scope: (Cause.DEMAND, parts)}
            [made] = await self._issue(authority, generation, wanted, turn, actor=actor)
            return made

    def lists(self, authority: Authority, generation: Generation) -> tuple[str, ...]:
        """The scopes in which lists are issued: as the settings have them, and those that certificates name."""
        points = self._authorities.distribution(authority, generation).standing()
        announced = (scope.scope for scope in self._look.scopes.get(generation.id, ()) if scope.announced)
        return tuple(dict.fromkeys((*(point.scope for point in points), *announced)))

    async def _look_after(self, authority: Authority, generation: Generation) -> list[Crl]:
        names = self._due_ones(authority, generation, self._look)
        if not names:
            return []
        self._require_able(generation)
        async with self._turns.turn(f"crl:{generation.id}") as turn:
            if turn is None:
                return []
            await self._look_again()  # another process may have been here before us
            wanted = self._due_ones(authority, generation, self._look)
            return await self._issue(authority, generation, wanted, turn, actor=_ACTOR)

    def _require_able(self, generation: Generation) -> None:
        """Before the turn is taken, which a node that cannot do it leaves to others; raises :class:`Unavailable`."""
        if generation.key_name is not None:
            self._keys.require_ready(generation.key_name)
        begin = generation.certificate.certificate.not_valid_before_utc
        if self._clock.now() < begin:  # a machine that woke in 1970: what is out there is right, and stays
            raise Unavailable(f"its certificate begins at {begin:%Y-%m-%d %H:%M:%SZ}: is this machine's clock right?")

    async def _issue(
        self,
        authority: Authority,
        generation: Generation,
        wanted: Mapping[str, tuple[Cause, Parts]],
        turn: Turn,
        *,
        actor: str,
    ) -> list[Crl]:
        issued: list[Crl] = []
        begun = self._clock.monotonic()
        try:
            for name, (cause, parts) in wanted.items():
                if issued and self._clock.monotonic() - begun > _TURN_SECONDS:
                    break
                made = await self._issuer.issue(
                    authority, generation, actor=actor, cause=cause, guard=turn.guard, scope=name, parts=parts
                )
                issued.append(made)
                self._numbers.note(authority.subject_der, name, made.number)
        finally:
            await self._numbers.share_news()  # now: a command never looks again
        return issued

    async def _look_again(self) -> None:
        before = self._look
        look = await self._database.read(lambda connection: _look(connection, before))
        losses = self._database.losses
        if losses != self._losses and before.known:  # what was known before may be more than this database knows
            look = await self._database.read(lambda connection: _look(connection, _Look()))
        if losses != self._losses or not self._compared:
            await self._pass_lost_numbers()
            self._losses = losses
            self._compared = not self._numbers.problem  # what others saw may be in the file, once it can be read
        self._look = look
        names = {authority.issuer_id: authority.subject_der for authority in self._authorities.list()}
        for known in look.known.values():
            if (name := names.get(known.scope.issuer_id)) is not None:
                self._numbers.note(name, known.scope.scope, max(number or 0 for number in known.numbers()))
        await self._numbers.share_news()

    async def _pass_lost_numbers(self) -> None:
        """Move numbers on where the database does not know of lists that were seen: it is older than they are."""
        await self._numbers.share()
        for authority in self._authorities.list():
            here, floor = await self._issuer.last_numbers(authority)
            seen = self._numbers.beyond(authority.subject_der, here, floor)
            if not seen:
                continue
            try:
                await self._issuer.advance(authority, seen, actor=_ACTOR)
            except Rejected as error:  # a number from elsewhere, with too few above it
                self._log.error("{name}: CRL {number} is lost: {why}", name=authority.name, number=seen, why=str(error))
            else:
                text = "{name}: the database has lost CRL {number}: new lists have higher numbers"
                self._log.error(text, name=authority.name, number=seen)

    def _due_ones(self, authority: Authority, generation: Generation, look: _Look) -> dict[str, tuple[Cause, Parts]]:
        now = self._clock.now()
        ids = {scope.scope: scope.id for scope in look.scopes.get(generation.id, ())}
        found = {}
        for name in self.lists(authority, generation):
            known = look.known.get(ids.get(name, 0))
            why = due(authority.settings.crl, CrlStanding(None, None) if known is None else known.standing(), now)
            if why is not None:
                found[name] = why
        return found


def _look(connection: Connection, before: _Look) -> _Look:
    """Look at every scope again. Only what changed is read: the numbers of lists and the changes of status."""
    seq = status.latest(connection)
    numbers = crl_history.newest_numbers(connection)
    groups = crl_content.changed_groups(connection, before.seq, seq) if before.known and seq > before.seq else ()
    by_generation: dict[int, list[CrlScope]] = {}
    known: dict[int, _Known] = {}
    for scope in crls.scopes(connection):
        by_generation.setdefault(scope.generation_id, []).append(scope)
        complete = numbers.get((scope.id, CrlKind.COMPLETE))
        if complete is None:
            continue
        delta = numbers.get((scope.id, CrlKind.DELTA))
        last = before.known.get(scope.id)
        if last is not None and last.numbers() == (complete, delta) and last.scope.cover == scope.cover:
            known[scope.id] = _go_on(last, groups)
        elif (read := _read(connection, scope, complete, delta)) is not None:
            known[scope.id] = read
    return _Look(seq, known, {number: tuple(some) for number, some in by_generation.items()})


def _go_on(known: _Known, groups: Iterable[ChangedGroup]) -> _Known:
    if known.changed is not None:
        return known
    first = min(((group.seq, group.at) for group in groups if group.within(known.within)), default=None)
    return known if first is None else attrs.evolve(known, changed=first)


def _read(connection: Connection, scope: CrlScope, complete: int, delta: int | None) -> _Known | None:
    newest = crl_history.record(connection, scope.id, complete)
    if newest is None:
        return None
    newest_delta = None if delta is None else crl_history.record(connection, scope.id, delta, CrlKind.DELTA)
    known = _Known(scope, scope_range(connection, scope), newest, newest_delta, None)
    changed = crl_content.first_change(connection, scope.issuer_id, known.within, known.shown)
    return attrs.evolve(known, changed=changed)
