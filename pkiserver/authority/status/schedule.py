"""When a CRL is due, and the periodic task that issues it: any process may, one does."""

from __future__ import annotations

from datetime import datetime

from twisted.logger import Logger

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.crl import Cause, CrlIssuer, CrlStanding, issues_crls
from pkiserver.authority.model import Authority, Generation
from pkiserver.authority.status.policy import CrlPolicy
from pkiserver.authority.status.turns import StatusProblem, Turns
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Unavailable
from pkiserver.store.crls import Crl

_ACTOR = "system"


def due(policy: CrlPolicy, standing: CrlStanding, now: datetime) -> Cause | None:
    """Why a list is to be issued now; None when it is not yet time."""
    newest = standing.newest
    if newest is None or now >= newest.this_update + policy.interval:
        return Cause.SCHEDULE
    if newest.this_update > now:
        # The clock was set back. A list from the future is of no use to anybody whose clock is right.
        return Cause.SCHEDULE
    if policy.on_revocation and standing.changed is not None and now >= standing.changed + policy.gather:
        return Cause.REVOCATION
    return None


class CrlScheduler:
    """Looks at every key generation and issues what is due."""

    _log = Logger()

    def __init__(self, issuer: CrlIssuer, authorities: Authorities, turns: Turns, clock: Clock) -> None:
        self._issuer = issuer
        self._authorities = authorities
        self._turns = turns
        self._clock = clock
        self._problems: dict[int, StatusProblem] = {}

    def problems(self) -> tuple[StatusProblem, ...]:
        """What went wrong at the last try, by generation; empty when all is well."""
        return tuple(self._problems.values())

    async def run_due(self) -> tuple[Crl, ...]:
        """Issue every list that is due and no other process issues; one that fails does not delay the others."""
        issued = []
        for authority in self._authorities.list():
            for generation in authority.generations:
                if not issues_crls(authority, generation):
                    self._problems.pop(generation.id, None)
                    continue
                try:
                    found = await self._look_after(authority, generation)
                except PkiError as error:
                    self._log.warn("{name}: no CRL: {why}", name=authority.name, why=str(error))
                    self._problems[generation.id] = StatusProblem(authority.name, f"CRL: {error}")
                    continue
                self._problems.pop(generation.id, None)
                if found is not None:
                    issued.append(found)
        return tuple(issued)

    async def issue_now(self, authority: Authority, generation: Generation, *, actor: str) -> Crl:
        """Issue a list on demand.

        Raises:
            Rejected: This server cannot issue lists for the generation.
            Unavailable: Key or database are away, or another process is issuing this moment.
        """
        async with self._turns.turn(f"crl:{generation.id}") as turn:
            if turn is None:
                raise Unavailable("another process is issuing this CRL", retry_after=5)
            return await self._issuer.issue(authority, generation, actor=actor, cause=Cause.DEMAND, guard=turn.guard)

    async def _look_after(self, authority: Authority, generation: Generation) -> Crl | None:
        if await self._due(authority, generation) is None:
            return None
        async with self._turns.turn(f"crl:{generation.id}") as turn:
            if turn is None:
                return None
            cause = await self._due(authority, generation)  # another process may have been here before us
            if cause is None:
                return None
            return await self._issuer.issue(authority, generation, actor=_ACTOR, cause=cause, guard=turn.guard)

    async def _due(self, authority: Authority, generation: Generation) -> Cause | None:
        standing = await self._issuer.standing(authority, generation)
        return due(authority.settings.crl, standing, self._clock.now())
