"""What is served over HTTP: CRLs and CA certificates by the paths in certificates, from the database."""

from __future__ import annotations

import hashlib
from datetime import datetime

import attrs
from sqlalchemy import Connection
from twisted.internet.defer import DeferredLock

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.distribution import scope_path
from pkiserver.authority.model import Authority
from pkiserver.authority.status.source import PublishedCertificates, PublishedCrl
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Rejected
from pkiserver.store.authority import crl_history, crls
from pkiserver.store.authority.authorities import GenerationState
from pkiserver.store.authority.crls import Crl, CrlKind
from pkiserver.store.database import Database

FRESH_SECONDS = 0.5
"""For how long a kept list is served without asking the database whether there is a newer one."""
KEPT_OCTETS = 64 * 1024 * 1024
"""Lists that are kept in memory, all together; a longer one is read for each request."""

_Key = tuple[int, CrlKind]


@attrs.define
class _Kept:
    crl: PublishedCrl
    asked: float


class Publications:
    """The :class:`~pkiserver.authority.status.source.PublicationSource` of this server's own authorities.

    The newest list of a scope is kept in memory; whether there is another one now is asked at most twice a second for
    each list. Which scopes there are is known in memory too, and asked for as often at most, so that a flood
    of wrong paths costs nothing.
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
        now = self._clock.monotonic()
        kept = self._kept.get(key)
        if kept is not None and now - kept.asked < FRESH_SECONDS:
            return kept.crl
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
        kept.asked = now
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
