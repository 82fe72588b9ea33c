"""What is served over HTTP: CRLs and CA certificates by the paths in certificates, from the database."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from sqlalchemy import Connection

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.model import Authority, Generation
from pkiserver.authority.status.source import PublishedCertificates, PublishedCrl
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Rejected
from pkiserver.store import crl_history, crls
from pkiserver.store.crls import FULL_SCOPE, Crl
from pkiserver.store.database import Database

FRESH_SECONDS = 0.5
"""For how long a kept list is served without asking the database whether there is a newer one."""
KEPT_OCTETS = 64 * 1024 * 1024
"""Lists that are kept in memory, all together; a longer one is read for each request."""


@attrs.define
class _Kept:
    crl: PublishedCrl
    asked: float


class Publications:
    """The :class:`~pkiserver.authority.status.source.PublicationSource` of this server's own authorities.

    The newest list of a generation is kept in memory by its number; whether there is a newer one is asked at most twice
    a second for each list. Nothing else is kept: the paths are those of generations, so memory is bounded by them.
    """

    def __init__(self, database: Database, authorities: Authorities, clock: Clock) -> None:
        self._database = database
        self._authorities = authorities
        self._clock = clock
        self._kept: dict[int, _Kept] = {}

    async def crl(self, path: str) -> PublishedCrl | None:
        """The newest complete CRL of a key generation."""
        found = self._authorities.by_crl_path(path)
        if found is None:
            return None
        authority, generation = found
        now = self._clock.monotonic()
        kept = self._kept.get(generation.id)
        if kept is not None and now - kept.asked < FRESH_SECONDS:
            return kept.crl
        have = None if kept is None else kept.crl.number
        newest = await self._database.read(lambda connection: _newest(connection, generation, have))
        if newest is None:
            return None
        if isinstance(newest, Crl):
            kept = _Kept(_published(authority, newest), now)
            self._keep(generation.id, kept)
        assert kept is not None  # its number was the one that is still the newest
        kept.asked = now
        return kept.crl

    def _keep(self, generation_id: int, kept: _Kept) -> None:
        self._kept.pop(generation_id, None)
        if sum(len(one.crl.der) for one in self._kept.values()) + len(kept.crl.der) <= KEPT_OCTETS:
            self._kept[generation_id] = kept

    async def numbered_crl(self, path: str, number: int) -> PublishedCrl | None:
        """An earlier complete CRL that is still kept."""
        return await self._read(path, lambda connection, scope_id: crls.get(connection, scope_id, number))

    async def _read(self, path: str, query: Callable[[Connection, int], Crl | None]) -> PublishedCrl | None:
        found = self._authorities.by_crl_path(path)
        if found is None:
            return None
        authority, generation = found

        def work(connection: Connection) -> Crl | None:
            scope_id = crl_history.find_scope(connection, generation.id, FULL_SCOPE)
            return None if scope_id is None else query(connection, scope_id)

        issued = await self._database.read(work)
        return None if issued is None else _published(authority, issued)

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


def _newest(connection: Connection, generation: Generation, have: int | None) -> Crl | int | None:
    """The newest list, or only its number when that is ``have``."""
    scope_id = crl_history.find_scope(connection, generation.id, FULL_SCOPE)
    if scope_id is None:
        return None
    number = crls.latest_number(connection, scope_id)
    return number if number == have else crls.latest(connection, scope_id)


def _published(authority: Authority, issued: Crl) -> PublishedCrl:
    return PublishedCrl(
        der=issued.der,
        number=issued.number,
        this_update=issued.this_update,
        next_update=issued.next_update,
        max_age=authority.settings.crl.max_age,
    )
