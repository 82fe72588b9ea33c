"""The address book of one process: entries by address, from a bounded cache that the feeds keep true or from the store.

Nothing is read at the start, so it does not matter how many certificates there are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Generic, Protocol, TypeVar

import attrs
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from pkiserver.authority.templates.library import TemplateLibrary
from pkiserver.authority.templates.model import PublicationRules
from pkiserver.foundation.clock import Clock
from pkiserver.publication import people
from pkiserver.publication.values import BookCounts, NameKind, NamePrefix, Person
from pkiserver.store import certificates
from pkiserver.store.authority import status as status_feed
from pkiserver.store.database import Database
from pkiserver.store.publication import addressbook as rows

TRUSTED_SECONDS = 0.5
"""For how long after a look at the feeds the cache is believed."""
_STEP = 1000
_BATCH = 64
"""Addresses that one read looks up."""


class Rendered(Protocol):
    """An entry as a protocol shows it."""

    @property
    def size(self) -> int:
        """About how many octets of memory it takes."""


T = TypeVar("T", bound=Rendered)


@attrs.frozen
class _Kept(Generic[T]):
    entries: tuple[T, ...]
    until: datetime
    size: int


class AddressBook(Generic[T]):
    """Finds entries, rendered once as ``render`` says.

    Args:
        database: The store.
        templates: Which of them publish.
        clock: The time.
        render: Makes of a person what is kept and given out.
        cache_bytes: What the cache may take.
    """

    def __init__(
        self,
        database: Database,
        templates: TemplateLibrary,
        clock: Clock,
        *,
        render: Callable[[Person], T],
        cache_bytes: int,
    ) -> None:
        self._database = database
        self._templates = templates
        self._clock = clock
        self._render = render
        self._room = cache_bytes
        self._kept: OrderedDict[str, _Kept[T]] = OrderedDict()
        self._size = 0
        self._seen: tuple[int, int] = (-1, -1)
        self._losses = database.losses
        self._looked = float("-inf")
        self._rules: dict[str, PublicationRules] = {}
        self._waiting: dict[str, list[Deferred[tuple[T, ...]]]] = {}
        self._reading = False
        self._hits = self._misses = self._dropped = 0

    @property
    def counts(self) -> BookCounts:
        """Figures for metrics."""
        return BookCounts(self._hits, self._misses, self._dropped, len(self._kept), self._size)

    def refresh(self) -> None:
        """Follow the templates; call it after the library was refreshed. What is shown may be all different then."""
        rules = {
            one.template.name: one.template.publication
            for one in self._templates.list()
            if one.template.publication.addressbook
        }
        if rules != self._rules:
            self._rules = rules
            self._clear()

    async def poll(self) -> None:
        """Read both feeds and drop what changed; call it several times a second.

        Raises:
            Unavailable: the database is away; the cache is not used until it is back.
        """
        began = self._clock.monotonic()
        seen = self._seen
        latest, changed = await self._database.read(lambda connection: _news(connection, seen))
        losses = self._database.losses
        if changed is None or losses != self._losses:  # the same numbers may tell of other changes than before
            self._clear()
        else:
            for address in changed:
                self._drop(address)
        self._seen, self._losses = latest, losses
        self._looked = began

    def cached(self, address: str) -> tuple[T, ...] | None:
        """The entries of an address key, if they are at hand and right."""
        kept = self._kept.get(address)
        if kept is None or self._clock.monotonic() - self._looked >= TRUSTED_SECONDS:
            return None
        if self._clock.now() > kept.until:
            self._drop(address)
            return None
        self._hits += 1
        self._kept.move_to_end(address)
        return kept.entries

    async def find(self, address: str) -> tuple[T, ...]:
        """The entries of an address key; raises :class:`Unavailable`."""
        found = self.cached(address)
        return await self._read(address) if found is None else found

    def _read(self, address: str) -> Deferred[tuple[T, ...]]:
        """Look it up together with all others that are waiting: one turn of a thread for many."""
        self._misses += 1
        waiting: Deferred[tuple[T, ...]] = Deferred()
        self._waiting.setdefault(address, []).append(waiting)
        if not self._reading:
            self._reading = True
            Deferred.fromCoroutine(self._read_waiting())
        return waiting

    async def _read_waiting(self) -> None:
        try:
            while self._waiting:
                batch = list(self._waiting)[:_BATCH]
                asked = {address: self._waiting.pop(address) for address in batch}
                try:
                    found = await self._read_batch(batch)
                except Exception as error:  # noqa: BLE001  # whatever it is, those who asked are told
                    for deferreds in asked.values():
                        for one in deferreds:
                            one.errback(error)
                    continue
                for address, deferreds in asked.items():
                    for one in deferreds:
                        one.callback(found[address])
        finally:
            self._reading = False

    async def _read_batch(self, batch: list[str]) -> dict[str, tuple[T, ...]]:
        rules = self._rules
        now = self._clock.now()

        def work(connection: Connection) -> tuple[tuple[int, int], dict[str, tuple[Person, ...]]]:
            latest = _latest(connection)
            return latest, {one: people.read_people(connection, one, rules, now) for one in batch}

        latest, read = await self._database.read(work)
        entries = {address: tuple(self._render(one) for one in found) for address, found in read.items()}
        # A record older than what has been dropped for already, or read under other rules, must not come back.
        if rules is self._rules and latest[0] >= self._seen[0] and latest[1] >= self._seen[1]:
            for address, found in read.items():
                if found:
                    self._keep(address, entries[address], min(one.until for one in found))
        return entries

    async def named(self, wanted: NamePrefix, limit: int) -> tuple[str, ...]:
        """The address keys of entries under a name; raises :class:`Unavailable`."""
        rules, now = self._rules, self._clock.now()
        return await self._database.read(
            lambda connection: people.read_addresses(connection, wanted, rules, now, limit)
        )

    async def by_serial(self, issuer_id: int, serial: int) -> tuple[T, ...]:
        """The entry with exactly that certificate; raises :class:`Unavailable`."""
        rules, now = self._rules, self._clock.now()
        try:
            octets = certificates.serial_octets(serial)
        except ValueError:
            octets = b""

        def work(connection: Connection) -> Person | None:
            row = rows.certificate_by_serial(connection, issuer_id, octets)
            return people.read_certificate(connection, row, rules, now)

        found = await self._database.read(work)
        return () if found is None else (self._render(found),)

    async def by_hash(self, kind: NameKind, value: str, limit: int) -> tuple[bytes, ...]:
        """Certificates (DER) under a hash of RFC 4387; raises :class:`Unavailable`."""
        rules, now = self._rules, self._clock.now()
        return await self._database.read(
            lambda connection: people.read_by_key(connection, kind, value, rules=rules, now=now, limit=limit)
        )

    def _keep(self, address: str, entries: tuple[T, ...], until: datetime) -> None:
        self._drop(address, count=False)
        size = sum(one.size for one in entries) + 2 * len(address) + 200
        self._kept[address] = _Kept(entries, until, size)
        self._size += size
        while self._size > self._room:
            self._drop(next(iter(self._kept)), count=False)

    def _drop(self, address: str, *, count: bool = True) -> None:
        kept = self._kept.pop(address, None)
        if kept is not None:
            self._size -= kept.size
            self._dropped += count

    def _clear(self) -> None:
        self._dropped += len(self._kept)
        self._kept.clear()
        self._size = 0


def _latest(connection: Connection) -> tuple[int, int]:
    # The numbers first: where a read is no snapshot, a change between makes the record newer, never older.
    return status_feed.latest(connection), rows.changes_since(connection, -1).latest


def _news(connection: Connection, seen: tuple[int, int]) -> tuple[tuple[int, int], tuple[str, ...] | None]:
    """Where the feeds stand, and the addresses that changed; None where they are too many or not known."""
    status, book = status_feed.latest(connection), rows.changes_since(connection, seen[1])
    latest = (status, book.latest)
    if book.addresses is None or seen[0] < 0 or not 0 <= status - seen[0] <= _STEP:
        return latest, None
    revoked = rows.addresses_of_status_changes(connection, seen[0], status) if status != seen[0] else ()
    return latest, (*book.addresses, *revoked)
