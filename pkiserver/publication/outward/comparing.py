"""The whole of a directory against the store: a report of the differences, or a full resynchronisation.

Both ways, a page at a time: every address that is shown must be in the directory, and no entry may hold what is not
shown. The server goes on meanwhile; what is mended is read again in the turn in which it is written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime

import attrs
from sqlalchemy import Connection
from twisted.internet import reactor as _reactor
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from pkiserver.authority.delivery.queue import TargetDown
from pkiserver.authority.status.turns import Turns
from pkiserver.foundation.errors import Unavailable
from pkiserver.outbound.ldap import LdapError
from pkiserver.outbound.ldapattributes import bare
from pkiserver.outbound.ldapfilter import Filter
from pkiserver.outbound.ldapwire import Scope
from pkiserver.outbound.problems import OutboundError
from pkiserver.publication.outward.bearer import DirectoryBearer, told
from pkiserver.publication.outward.entries import Comparison, Entries
from pkiserver.publication.outward.settings import Directory
from pkiserver.store.database import Database
from pkiserver.store.publication import addressbook_scan, outward

PAGE = 100
_WAIT = 0.2
_PATIENCE = 90.0
"""Seconds for which another process's turn is waited for; one lasts a minute at most."""


@attrs.frozen
class Progress:
    """How far it is: addresses of ours and entries of theirs that were looked at, differences, those mended."""

    addresses: int = 0
    entries: int = 0
    differences: int = 0
    mended: int = 0


Seen = Callable[[Progress], None]


class DirectoryComparison:
    """Compares one directory; ``seen`` is told after every page."""

    def __init__(self, bearer: DirectoryBearer, database: Database, *, seen: Seen) -> None:
        self._bearer = bearer
        self._database = database
        self._seen = seen
        self.progress = Progress()

    async def differences(self) -> AsyncIterator[Comparison]:
        """Every address or entry that is not as it should be, each entry once.

        Raises:
            TargetDown: the directory cannot be used.
            Unavailable: the database is away.
        """
        async with self._bearer.entries() as entries:
            async for page in self._pages(entries):
                for one in page:
                    if one.differs:
                        yield one

    async def resync(self, turns: Turns) -> AsyncIterator[Comparison]:
        """Mend every difference, and plan when each address is looked at next; gives out what could not be mended.

        Raises:
            TargetDown, Unavailable: as :meth:`differences`; the second also where another process keeps its turn.
        """
        async with self._bearer.entries() as entries:
            async for page in self._pages(entries):
                mended = await self._in_turn(turns, lambda page=page: self._mend(entries, page))  # type: ignore[misc]
                for one in mended:
                    yield one

    async def _mend(self, entries: Entries, page: tuple[Comparison, ...]) -> tuple[Comparison, ...]:
        failed = []
        later: list[tuple[str, datetime]] = []
        mended = 0
        for one in page:
            found = one
            if one.differs:
                found = await self._settle(entries, one)
                if found.problem is None:
                    mended += 1
                else:
                    failed.append(found)
            if found.problem is None and found.address and found.wanted.until is not None:
                later.append((found.address, found.wanted.until))
        key = self._bearer.key
        if later:
            await self._database.write(lambda connection: outward.schedule(connection, key, later))
        self._count(mended=mended)
        return tuple(failed)

    async def _settle(self, entries: Entries, one: Comparison) -> Comparison:
        try:
            if one.address:
                return await entries.settle(one.address)
            await entries.mend(one)
        except LdapError as error:
            why = told(error)
            if isinstance(why, TargetDown):
                raise why from error
            return attrs.evolve(one, problem=str(error))
        return one

    async def _in_turn(
        self, turns: Turns, work: Callable[[], Awaitable[tuple[Comparison, ...]]]
    ) -> tuple[Comparison, ...]:
        waited = 0.0
        while True:
            async with turns.turn(f"outward:{self._bearer.key}") as turn:
                if turn is not None:
                    return await work()
            if waited >= _PATIENCE:
                raise Unavailable("another process has been writing to this directory all the time", retry_after=60)
            await deferLater(IReactorTime(_reactor), _WAIT)
            waited += _WAIT

    async def _pages(self, entries: Entries) -> AsyncIterator[tuple[Comparison, ...]]:
        told_of: set[str] = set()
        try:
            async for addresses in self._addresses():
                page = [await entries.compare(address) for address in addresses]
                found = _once(page, told_of)
                self._count(addresses=len(addresses), differences=sum(one.differs for one in found))
                yield found
            directory = self._bearer.directory
            async for some in entries.connection.search_pages(
                directory.base, Scope.TREE, _holding(directory), entries.attributes, page=PAGE
            ):
                found = tuple([await entries.compare_entry(one) for one in some if one.dn not in told_of])
                self._count(entries=len(some), differences=sum(one.differs for one in found))
                yield tuple(one for one in found if one.differs)
        except (OutboundError, LdapError) as error:
            raise TargetDown(str(error)) from error

    async def _addresses(self) -> AsyncIterator[tuple[str, ...]]:
        after = ""
        now = self._bearer.now()
        while True:
            page = await self._database.read(
                lambda connection, after=after: _shown_after(connection, after, now)  # type: ignore[misc]
            )
            if not page:
                return
            yield page
            after = page[-1]

    def _count(self, *, addresses: int = 0, entries: int = 0, differences: int = 0, mended: int = 0) -> None:
        so_far = self.progress
        self.progress = Progress(
            so_far.addresses + addresses,
            so_far.entries + entries,
            so_far.differences + differences,
            so_far.mended + mended,
        )
        self._seen(self.progress)


def _once(page: Iterable[Comparison], told_of: set[str]) -> tuple[Comparison, ...]:
    """Without entries that were told of under another address; remembers those that differ."""
    found = []
    for one in page:
        if one.dn and one.differs:
            if one.dn in told_of:
                continue
            told_of.add(one.dn)
        found.append(one)
    return tuple(found)


def _shown_after(connection: Connection, after: str, now: datetime) -> tuple[str, ...]:
    return addressbook_scan.addresses_after(connection, after, now=now, limit=PAGE)


def _holding(directory: Directory) -> Filter:
    """Entries that hold anything of the kind that we write."""
    names = [bare(name) for name in (directory.user_certificate, directory.smime_attribute or "")]
    return Filter.parse(f"(|{''.join(f'({name}=*)' for name in names if name)})")
