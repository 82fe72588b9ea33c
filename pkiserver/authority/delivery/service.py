"""Bringing new lists to each target: one process at a time for each, and none waits for another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta

import attrs
from sqlalchemy import Connection
from twisted.logger import Logger

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.delivery.carriers import carrier
from pkiserver.authority.delivery.settings import CrlTarget, DirectoryTarget
from pkiserver.authority.delivery.values import Carrier, DeliveryError, Parcel
from pkiserver.authority.distribution import scope_path
from pkiserver.authority.model import GenerationState
from pkiserver.authority.status.turns import Turn, Turns
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError
from pkiserver.outbound.dial import within
from pkiserver.store.authority import crl_history, crls, deliveries
from pkiserver.store.authority.crls import CrlKind, CrlScope
from pkiserver.store.authority.deliveries import Delivery
from pkiserver.store.database import Database

FIRST_PAUSE = timedelta(seconds=5)
LONGEST_PAUSE = timedelta(minutes=10)
"""Between two tries at a target that fails; each pause is twice the last."""
_DOWN = 2
"""A target that failed for so many lists is taken to be down."""
_WORKING = timedelta(seconds=55)
"""Of a turn (a minute) so much is worked: what is begun ends within it, however long the target takes."""


@attrs.frozen
class TargetStanding:
    """How a target is: how many lists it lacks, and why the last try failed, or what else is wrong."""

    name: str
    waiting: int = 0
    failing_for: int = 0
    problem: str | None = None


@attrs.frozen
class _Outstanding:
    path: str
    scope: CrlScope
    kind: CrlKind
    number: int
    before: Delivery | None


class TargetDeliveries:
    """Keeps one target up to date; call :meth:`run_due` every second or two in every process."""

    _log = Logger()

    def __init__(
        self,
        target: CrlTarget,
        *,
        node: str,
        database: Database,
        authorities: Authorities,
        turns: Turns,
        clock: Clock,
        through: Carrier | None = None,
    ) -> None:
        self._target = target
        # A directory is this node's own; the others are the same place for whoever calls them by the same name.
        self._name = f"{node}/{target.name}" if isinstance(target, DirectoryTarget) else target.name
        # What was brought to another place is not at this one.
        self._key = f"{self._name} {hashlib.sha256(target.place.encode()).hexdigest()[:16]}"
        self._database = database
        self._authorities = authorities
        self._turns = turns
        self._clock = clock
        self._carrier = through or carrier(target, clock)
        self._known: Sequence[Delivery] = ()
        self._doubtful: set[tuple[int, CrlKind]] = set()
        self.standing = TargetStanding(target.name)

    async def run_due(self) -> int:
        """Deliver what the target lacks, unless it is to be left alone for now; how many lists it took.

        Raises:
            Unavailable: The database is away.
        """
        if not self._due(await self._look()):
            return 0
        async with self._turns.turn(f"crl-target:{self._name}") as turn:
            if turn is None:
                return 0
            due = self._due(await self._look())  # another process may have been here before us
            taken = await self._deliver(due, turn)
        await self._look()
        return taken

    async def _deliver(self, outstanding: Sequence[_Outstanding], turn: Turn) -> int:
        taken = failures = 0
        begun = self._clock.monotonic()
        for position, one in enumerate(outstanding):
            worked = timedelta(seconds=self._clock.monotonic() - begun)
            if position and worked + self._target.timeout > _WORKING:
                break
            issued = await self._database.read(
                lambda connection, one=one: crls.get(connection, one.scope.id, one.number, one.kind)  # type: ignore[misc]
            )
            if issued is None:
                continue
            if turn.is_over:  # whoever was stopped here must not put this list over a newer one
                break
            try:
                await self._bring(Parcel(one.path, one.kind, one.scope.cover.covers, one.number, issued.der))
            except DeliveryError as error:
                await self._note(self._failure(one, str(error)), turn)
                self._log.warn("CRL target {name}: {why}", name=self._target.name, why=str(error))
                failures += 1
                if failures == _DOWN:
                    break
                continue
            await self._note(self._success(one), turn)
            self._doubtful.discard((one.scope.id, one.kind))
            taken += 1
        return taken

    async def _bring(self, parcel: Parcel) -> None:
        """One time limit for all of it, whatever the carrier's steps have; raises :class:`DeliveryError`."""
        limit = self._target.timeout
        silent = DeliveryError(f"{parcel.file} was not taken within {limit.total_seconds():g} s")
        try:
            await within(self._carrier.deliver(parcel), limit.total_seconds(), lambda: silent)
        except DeliveryError:
            raise
        except Exception as error:  # what a carrier did not foresee is a failure like any other, with its pauses
            self._log.failure("CRL target {name}", name=self._target.name)
            raise DeliveryError(f"unexpected: {type(error).__name__}: {error}") from error

    async def _note(self, delivery: Delivery, turn: Turn) -> None:
        def work(connection: Connection) -> None:
            turn.guard(connection)
            deliveries.put(connection, delivery)

        try:
            await self._database.write(work)
        except PkiError:
            # Another process may have brought a newer list before this one came over it: the newest is brought again.
            self._doubtful.add((delivery.scope_id, delivery.kind))
            raise

    def _success(self, one: _Outstanding) -> Delivery:
        now = self._clock.now()
        return Delivery(self._key, one.scope.id, one.kind, one.number, now, 0, now, None)

    def _failure(self, one: _Outstanding, problem: str) -> Delivery:
        attempts = 1 if one.before is None else one.before.attempts + 1
        pause = min(FIRST_PAUSE * 2 ** min(attempts - 1, 20), LONGEST_PAUSE)
        number = 0 if one.before is None else one.before.number
        delivered = None if one.before is None else one.before.delivered
        next_try = self._clock.now() + pause
        return Delivery(self._key, one.scope.id, one.kind, number, delivered, attempts, next_try, problem[:500])

    def _due(self, outstanding: Sequence[_Outstanding]) -> list[_Outstanding]:
        """What is to be tried now, what has not failed first.

        One list that a target will not have does not hold up the others; a target that fails for several, or for its
        only one, is left alone until the pause is over.
        """
        now = self._clock.now()
        failed = [one for one in outstanding if one.before is not None and one.before.problem is not None]
        # beyond the longest pause the clock was set back
        waiting = [one for one in failed if one.before is not None and now < one.before.next_try <= now + LONGEST_PAUSE]
        if waiting and (len(failed) >= _DOWN or len(failed) == len(self._known)):
            return []
        fresh = [one for one in outstanding if one not in failed]
        return [*fresh, *(one for one in failed if one not in waiting)]

    async def _look(self) -> tuple[_Outstanding, ...]:
        wanted = self._wanted()
        found, known = await self._database.read(
            lambda connection: _outstanding(connection, self._key, wanted, self._doubtful)
        )
        self._known = known
        failed = [one for one in known if one.problem is not None]
        worst = max(failed, key=lambda one: one.attempts, default=None)
        self.standing = TargetStanding(
            self._target.name,
            waiting=len(found),
            failing_for=0 if worst is None else worst.attempts,
            problem=self._nobodys() if worst is None else worst.problem,
        )
        return found

    def _nobodys(self) -> str | None:
        """What is wrong with whose lists the target is to have; authorities may come later than a node's file."""
        known = {authority.name for authority in self._authorities.list()}
        unknown = [name for name in self._target.authorities if name not in known]
        return f"there is no authority {', '.join(unknown)}" if unknown else None

    def _wanted(self) -> Mapping[int, str]:
        """The paths of the key generations whose lists are delivered."""
        return {
            generation.id: generation.crl_path
            for authority in self._authorities.list()
            if not self._target.authorities or authority.name in self._target.authorities
            for generation in authority.generations
            if generation.state in {GenerationState.ACTIVE, GenerationState.PREVIOUS}
        }


def _outstanding(
    connection: Connection, key: str, wanted: Mapping[int, str], doubtful: AbstractSet[tuple[int, CrlKind]]
) -> tuple[tuple[_Outstanding, ...], tuple[Delivery, ...]]:
    scopes = {scope.id: scope for scope in crls.scopes(connection) if scope.generation_id in wanted}
    known = {(one.scope_id, one.kind): one for one in deliveries.of_target(connection, key) if one.scope_id in scopes}
    found = []
    for (scope_id, kind), number in crl_history.newest_numbers(connection).items():
        scope = scopes.get(scope_id)
        before = known.get((scope_id, kind))
        if scope is None:
            continue
        lacking = before is None or before.number < number or before.problem is not None
        if lacking or (scope_id, kind) in doubtful:
            path = scope_path(wanted[scope.generation_id], scope.scope)
            found.append(_Outstanding(path, scope, kind, number, before))
    return tuple(found), tuple(known.values())
