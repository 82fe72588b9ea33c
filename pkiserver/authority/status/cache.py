"""Status records in memory, kept true by the status feed; without the feed every question goes to the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from pkiserver.foundation.bounded import keep
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError
from pkiserver.store import certificates
from pkiserver.store.authority import status as feed
from pkiserver.store.certificates import CertificateStatus
from pkiserver.store.database import Database

ENTRIES = 100_000
"""Records kept; the one that was read first goes first."""
TRUSTED_SECONDS = 0.1
"""For how long after a look at the feed began the cache is believed. Within it a change elsewhere may go unseen."""
_STEP = 1000

_Key = tuple[int, int]


@attrs.define
class CacheCounts:
    """Figures for metrics, since the start."""

    hits: int = 0
    misses: int = 0
    bypassed: int = 0
    changed: int = 0


class StatusCache:
    """Answers from memory while it knows that nothing changed; a record that did is read again with the feed.

    Only records of certificates are kept, never that there is none: the feed does not tell of new certificates. A
    record is kept only if its snapshot shows every change that has been applied already, so that a slow read cannot
    bring an old status back. As long as a record is kept and does not change, it is told by the very same object.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: dict[_Key, CertificateStatus] = {}
        self._applied = -1
        self._losses = database.losses
        self._looked = float("-inf")
        self._waking = self._again = False
        self._joined: list[Deferred[None]] | None = None
        self.counts = CacheCounts()

    @property
    def is_trusted(self) -> bool:
        """Whether the feed was read recently enough."""
        return self._clock.monotonic() - self._looked < TRUSTED_SECONDS

    @property
    def state(self) -> object | None:
        """Something that is another after each change that is known here; None while changes may be unknown."""
        # is_trusted, without a call more: this is asked for each answer that is kept
        trusted = self._clock.monotonic() - self._looked < TRUSTED_SECONDS
        return (self._losses, self._applied) if trusted else None

    async def poll(self) -> None:
        """Read the feed and drop what changed; call it every 50 ms.

        Raises:
            Unavailable: The database is away; the cache is not used until it is back.
        """
        began = self._clock.monotonic()
        applied, known = self._applied, self._known
        latest, changed = await self._database.read_ahead(lambda connection: _news(connection, applied, known))
        losses = self._database.losses
        forgets = losses != self._losses or latest < applied  # then the numbers may tell of other changes than before
        if changed is None or forgets:
            known.clear()
            changed = {}
        for key, status in changed.items():
            if known.pop(key, None) is not None:
                self.counts.changed += 1
                if latest >= self._applied and status is not None:  # else a later look has overtaken this one
                    known[key] = status
        # Two looks may overlap; the later one's word stands.
        self._applied = latest if forgets else max(self._applied, latest)
        self._losses = losses
        self._looked = max(self._looked, began)

    def wake(self) -> None:
        """Look at the feed at once: it has moved. Never waits and raises nothing; the next poll makes up for it."""
        if self._waking:
            self._again = True
            return
        self._waking = True
        Deferred.fromCoroutine(self._look())

    async def _look(self) -> None:
        try:
            self._again = True
            while self._again:
                self._again = False
                await self.poll()
        except PkiError:
            return
        finally:
            self._waking = False

    async def _catch_up(self) -> None:
        """One look for all who ask meanwhile; where it fails, or takes too long, each asks the database.

        Without it a server that is so busy that a look came late would turn each request into a read, and be busier.
        """
        waiting: Deferred[None] = Deferred()
        if self._joined is not None:
            self._joined.append(waiting)
        else:
            self._joined = [waiting]
            Deferred.fromCoroutine(self._look_for_all())
        await waiting

    async def _look_for_all(self) -> None:
        try:
            await self.poll()
        except PkiError:
            return  # who waits finds the cache not believed, and the same fault
        finally:
            joined, self._joined = self._joined or [], None
            for one in joined:
                if not one.called:  # its request was not cancelled
                    one.callback(None)

    async def statuses(self, issuer_id: int, serials: Sequence[int]) -> tuple[CertificateStatus | None, ...]:
        """The status of each serial number of an issuer; None for what was never settled.

        Raises:
            Unavailable: The database is needed and away.
        """
        if not self.is_trusted:
            await self._catch_up()
        if self.is_trusted:
            found = self._remembered(issuer_id, serials)
            if found is not None:
                return found
            self.counts.misses += 1
        else:
            self.counts.bypassed += 1
        seq, read = await self._database.read(lambda connection: _read(connection, issuer_id, serials))
        if self._applied <= seq:
            for serial, status in read.items():
                known = self._known.get((issuer_id, serial))
                if known is not None and known == status and self._applied == seq:
                    read[serial] = known
                else:
                    keep(self._known, (issuer_id, serial), status, most=ENTRIES)
        return tuple(read.get(serial) for serial in serials)

    def statuses_now(self, issuer_id: int, serials: Sequence[int]) -> tuple[CertificateStatus | None, ...] | None:
        """As :meth:`statuses`, from memory alone; None where the database must be asked."""
        return self._remembered(issuer_id, serials) if self.is_trusted else None

    def _remembered(self, issuer_id: int, serials: Sequence[int]) -> tuple[CertificateStatus, ...] | None:
        known = self._known
        found = []
        for serial in serials:
            status = known.get((issuer_id, serial))
            if status is None:
                return None
            found.append(status)
        self.counts.hits += 1
        return tuple(found)


def _news(
    connection: Connection, applied: int, known: Mapping[_Key, CertificateStatus]
) -> tuple[int, dict[_Key, CertificateStatus | None] | None]:
    """The number of the last change, and of what is known and changed how it stands now.

    None at the start, where the feed went back, and where more changed than is worth telling one by one.
    """
    latest = feed.latest(connection)
    if applied < 0 or not 0 <= latest - applied <= _STEP:
        return latest, None
    if latest == applied:
        return latest, {}
    keys = {(one.issuer_id, one.serial) for one in feed.since(connection, applied, limit=latest - applied)}
    return latest, {key: certificates.status_by_serial(connection, *key) for key in keys if key in known}


def _read(connection: Connection, issuer_id: int, serials: Sequence[int]) -> tuple[int, dict[int, CertificateStatus]]:
    # The number first: where a read is no snapshot, a change between the two makes the record newer, never older.
    seq = feed.latest(connection)
    return seq, certificates.statuses_by_serial(connection, issuer_id, serials)
