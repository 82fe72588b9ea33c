"""What is served over HTTP: CRLs and CA certificates by the paths in certificates, from the database."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import attrs
from sqlalchemy import Connection
from twisted.internet.defer import DeferredLock

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.distribution import scope_path
from pkiserver.authority.model import Authority
from pkiserver.authority.status.source import PublishedCertificates, PublishedCrl
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Rejected, Unavailable
from pkiserver.outbound.dial import within
from pkiserver.store.authority import crl_history, crls
from pkiserver.store.authority.authorities import GenerationState
from pkiserver.store.authority.crls import Crl, CrlKind
from pkiserver.store.database import Database

FRESH_SECONDS = 0.5
"""For how long a kept list is served without asking the database whether there is a newer one."""
KEPT_OCTETS = 64 * 1024 * 1024
"""Lists that are kept in memory, all together; a longer one is read for each request."""

PATIENCE = 2.0
"""Seconds that the database may take to answer before a kept list that is in force is given without it."""
_UNCERTAIN = timedelta(seconds=30)
"""For how long caches may keep a list of which nobody could say whether it is the newest."""

_Key = tuple[int, CrlKind]


@attrs.define
class _Kept:
    """A list in memory; ``certain`` where the database said, when it was ``asked`` last, that it is the newest."""

    crl: PublishedCrl
    asked: float
    certain: bool = True
    asking: bool = False

    def is_in_force(self, now: datetime) -> bool:
        return self.crl.this_update <= now < self.crl.next_update

    def shown(self) -> PublishedCrl:
        return self.crl if self.certain else attrs.evolve(self.crl, max_age=min(self.crl.max_age, _UNCERTAIN))


class Publications:
    """The :class:`~pkiserver.authority.status.source.PublicationSource` of this server's own authorities.

    The newest list of a scope is kept in memory; whether there is another one now is asked at most twice a second for
    each list. While the database is away, what is kept is given out until its nextUpdate. Which scopes there are is
    known in memory too, and asked for as often at most, so that a flood of wrong paths costs nothing.
    """

    def __init__(self, database: Database, authorities: Authorities, clock: Clock) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._scopes: dict[str, tuple[str, int]] = {}
        self._looked = float("-inf")
        self._looking = DeferredLock()
        self._kept: dict[_Key, _Kept] = {}

    async def crl(self, path: str, kind: CrlKind = CrlKind.COMPLETE) -> PublishedCrl | None:
        """The newest list of a distribution point."""
        found = await self._scope(path)
        if found is None:
            return None
        authority, scope_id = found
        key = (scope_id, kind)
        kept = self._kept.get(key)
        if kept is None:
            return await self._ask(authority, key, None)
        is_fresh = self._clock.monotonic() - kept.asked < FRESH_SECONDS
        if is_fresh and kept.certain:
            return kept.crl
        if not kept.is_in_force(self._clock.now()):
            return await self._ask(authority, key, kept)
        if is_fresh or kept.asking:
            return kept.shown()
        return await self._ask_briefly(authority, key, kept)

    async def _ask_briefly(self, authority: Authority, key: _Key, kept: _Kept) -> PublishedCrl | None:
        """Ask the database whether there is a newer list than this one, which is in force; it stands for no answer."""
        away = Unavailable("the database does not answer")
        kept.asking = True
        try:
            return await within(self._ask(authority, key, kept), PATIENCE, lambda: away)
        except Unavailable:
            kept.asked, kept.certain = self._clock.monotonic(), False
            return kept.shown()
        finally:
            kept.asking = False

    async def _ask(self, authority: Authority, key: _Key, kept: _Kept | None) -> PublishedCrl | None:
        now = self._clock.monotonic()
        # A limit for caches that was changed counts at once, not from the next list on.
        current = kept is not None and kept.crl.max_age == authority.settings.crl.max_age
        have = (kept.crl.number, kept.crl.this_update) if kept is not None and current else None
        newest = await self._database.read(lambda connection: _newest(connection, authority, key, have))
        if newest is None:
            return None
        if isinstance(newest, PublishedCrl):
            kept = _Kept(newest, now)
            self._keep(key, kept)
        assert kept is not None  # it is still the newest
        kept.asked, kept.certain = now, True
        return kept.crl

    async def complete_lists(self, authority: str) -> tuple[bytes, ...]:
        """The newest complete list (DER) of each of an authority's distribution points; empty before the first."""
        generations = {one.id: one for one in self._authorities.get(authority).generations}
        scopes = await self._database.read(crls.scopes)
        found = []
        for one in scopes:
            generation = generations.get(one.generation_id)
            if generation is None or generation.state is GenerationState.RETIRED:
                continue
            published = await self.crl(scope_path(generation.crl_path, one.scope))
            if published is not None:
                found.append(published.der)
        return tuple(found)

    def _keep(self, key: _Key, kept: _Kept) -> None:
        self._kept.pop(key, None)
        if sum(len(one.crl.der) for one in self._kept.values()) + len(kept.crl.der) <= KEPT_OCTETS:
            self._kept[key] = kept

    async def numbered_crl(self, path: str, number: int, kind: CrlKind = CrlKind.COMPLETE) -> PublishedCrl | None:
        """An earlier list that is still kept."""
        found = await self._scope(path)
        if found is None:
            return None
        authority, scope_id = found

        def work(connection: Connection) -> PublishedCrl | None:
            issued = crls.get(connection, scope_id, number, kind)
            return None if issued is None else _published(authority, issued)

        return await self._database.read(work)

    async def _scope(self, path: str) -> tuple[Authority, int] | None:
        found = self._scopes.get(path)
        if found is None:
            await self._look(path)
            found = self._scopes.get(path)
        return None if found is None else (self._authorities.get(found[0]), found[1])

    async def _look(self, path: str) -> None:
        if self._authorities.by_list_path(path) is None:
            return
        # Whoever asks while they are being read waits for what there is.
        async with self._looking:
            if path not in self._scopes and self._clock.monotonic() - self._looked >= FRESH_SECONDS:
                await self._read_scopes()

    async def _read_scopes(self) -> None:
        begun = self._clock.monotonic()
        scopes = {(one.generation_id, one.scope): one.id for one in await self._database.read(crls.scopes)}
        self._looked = begun
        self._scopes = {
            scope_path(generation.crl_path, scope): (authority.name, scope_id)
            for authority in self._authorities.list()
            for generation in authority.generations
            for (generation_id, scope), scope_id in scopes.items()
            if generation_id == generation.id
        }

    async def ca_certificate(self, path: str) -> PublishedCertificates | None:
        """The certificate of a key generation."""
        found = self._authorities.by_crl_path(path)
        if found is None or found[1].ca is None:
            return None
        ca = found[1].ca
        return PublishedCertificates((ca.der,), ca.certificate.not_valid_before_utc)

    async def chain(self, authority: str) -> PublishedCertificates | None:
        """The certificates of an authority that serve, its link certificates, and what is above."""
        try:
            found = self._authorities.get(authority)
            served = self._authorities.served(authority)
        except Rejected:
            return None
        starts = [one.ca.certificate.not_valid_before_utc for one in found.generations if one.ca is not None]
        return PublishedCertificates(served, max(starts)) if served and starts else None


_Which = tuple[int, datetime]
"""A list's number and thisUpdate: a database that took over and lacks the last list may give its number once more."""


def _newest(
    connection: Connection, authority: Authority, key: _Key, have: _Which | None
) -> PublishedCrl | _Which | None:
    """The newest list, or only which it is when that is ``have``."""
    scope_id, kind = key
    if have is not None:
        newest = crl_history.newest(connection, scope_id, kind)
        if newest is not None and (newest.number, newest.this_update) == have:
            return have
    found = crls.latest(connection, scope_id, kind)
    if found is None:
        return None
    return _published(authority, found, dated=crl_history.is_later(connection, scope_id, found))


def _published(authority: Authority, issued: Crl, *, dated: bool = True) -> PublishedCrl:
    """For the thread that reads: 50 MB take a tenth of a second, which the reactor does not have."""
    return PublishedCrl(
        der=issued.der,
        digest=hashlib.sha256(issued.der).hexdigest(),
        number=issued.number,
        this_update=issued.this_update,
        next_update=issued.next_update,
        max_age=authority.settings.crl.max_age,
        dated=dated,
    )
