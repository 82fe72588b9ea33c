"""The log of tokens: hash-chained entries, written behind the answers by batches, or before them where that is wanted.

Each start of a process has a chain of its own. An entry's hash covers the entry and the hash before it; the head of a
chain goes to the audit log every so often, which is itself chained and signed, so that a cut end shows as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime

import attrs
from sqlalchemy import Connection
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.foundation.errors import PkiError, Unavailable
from pkiserver.foundation.framing import framed
from pkiserver.store import timestamps
from pkiserver.store.database import Database
from pkiserver.store.times import to_micros
from pkiserver.store.timestamps import Entry

_log = Logger(namespace="pkiserver.timestamping")

FLUSH_SECONDS = 0.25
"""How long an entry waits at most before its batch begins to be written."""
MOST_WAITING = 20_000
"""Entries that may wait while the database is slow or away; then tokens are refused."""
HEAD_EVERY = 100_000
"""Entries after which the head goes to the audit log; it does at each stop as well."""
_BATCH = 2_000
_CHAIN_NAME = "log"


@attrs.frozen
class Issued:
    """A token that was made. ``serial`` is the content of the INTEGER; ``imprint_hash`` the name of its hash."""

    unit: str
    at: datetime
    serial: bytes
    imprint_hash: str
    imprint: bytes
    token: bytes = attrs.field(repr=False)


@attrs.define
class _Waiting:
    issued: Issued
    keep_token: bool
    done: Deferred[None] | None


def genesis(chain: int) -> bytes:
    """What stands before a chain's first entry."""
    return hashlib.sha256(b"pkiserver time-stamp log, chain %d" % chain).digest()


def entry_hash(entry: Entry) -> bytes:
    """SHA-256 over an entry's fields, each with its length, and the hash before it. The token counts by its digest."""
    fields = (
        entry.chain.to_bytes(8, "big"),
        entry.number.to_bytes(8, "big"),
        entry.unit.encode(),
        to_micros(entry.at).to_bytes(8, "big", signed=True),
        entry.serial,
        entry.imprint_hash.encode(),
        entry.imprint,
        entry.token_sha256,
    )
    return hashlib.sha256(entry.prev_hash + framed(fields)).digest()


class TokenLog:
    """Notes tokens in the database."""

    def __init__(self, database: Database, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit
        self._waiting: list[_Waiting] = []
        self._chain = 0
        self._number = 0
        self._head = b""
        self._told = 0
        self._writing: Deferred[None] | None = None

    def add(self, issued: Issued, *, keep_token: bool) -> None:
        """Note a token soon.

        Raises:
            Unavailable: too many wait already: the token must not be given out.
        """
        self._queue(_Waiting(issued, keep_token, None))

    async def keep(self, issued: Issued, *, keep_token: bool) -> None:
        """Note a token, and return when that is durable.

        Raises:
            Unavailable: it is not: the token must not be given out.
        """
        done: Deferred[None] = Deferred()
        self._queue(_Waiting(issued, keep_token, done))
        if self._writing is None:
            Deferred.fromCoroutine(self.flush()).addErrback(lambda _: None)  # whoever waits is told
        await done

    def _queue(self, one: _Waiting) -> None:
        if len(self._waiting) >= MOST_WAITING:
            raise Unavailable("the time-stamp log cannot be written", retry_after=10)
        self._waiting.append(one)

    @property
    def waiting(self) -> int:
        """How many entries are not written yet."""
        return len(self._waiting)

    async def flush(self) -> None:
        """Write all that waits; call it every :data:`FLUSH_SECONDS`.

        Raises:
            Unavailable: the database is away; the entries wait on, those who wait for them are told.
        """
        while self._writing is not None:
            await self._turn()
        if not self._waiting:
            return
        self._writing = Deferred()
        try:
            while self._waiting:
                await self._write(self._waiting[:_BATCH])
        except PkiError as error:
            for one in self._waiting:
                done, one.done = one.done, None
                if done is not None:
                    done.errback(Unavailable(f"the time-stamp log cannot be written: {error}", retry_after=10))
            raise
        finally:
            writing, self._writing = self._writing, None
            writing.callback(None)

    def _turn(self) -> Deferred[None]:
        """Fires when the write that runs now has ended."""
        mine: Deferred[None] = Deferred()

        def pass_on(result: None) -> None:
            mine.callback(None)
            return result

        assert self._writing is not None
        self._writing.addCallback(pass_on)
        return mine

    async def _write(self, batch: list[_Waiting]) -> None:
        if not self._chain:
            self._chain = await self._database.write(lambda connection: timestamps.next_block(connection, _CHAIN_NAME))
            self._head = genesis(self._chain)
        entries = self._entries(batch)
        head = self._due_head(entries[-1])

        def work(connection: Connection) -> None:
            timestamps.append(connection, entries)
            if head is not None:
                self._audit.append(connection, head)

        await self._database.write(work)
        self._number, self._head = entries[-1].number, entries[-1].hash
        if head is not None:
            self._told = self._number
        del self._waiting[: len(batch)]
        for one in batch:
            if one.done is not None:
                one.done.callback(None)

    def _entries(self, batch: list[_Waiting]) -> list[Entry]:
        entries = []
        number, head = self._number, self._head
        for one in batch:
            number += 1
            issued = one.issued
            entry = Entry(
                chain=self._chain,
                number=number,
                unit=issued.unit,
                at=issued.at,
                serial=issued.serial,
                imprint_hash=str(issued.imprint_hash),
                imprint=issued.imprint,
                token_sha256=hashlib.sha256(issued.token).digest(),
                prev_hash=head,
                hash=b"",
                token=issued.token if one.keep_token else None,
            )
            head = entry_hash(entry)
            entries.append(attrs.evolve(entry, hash=head))
        return entries

    def _due_head(self, last: Entry) -> AuditEvent | None:
        return _head_event(last.chain, last.number, last.hash) if last.number - self._told >= HEAD_EVERY else None

    async def stop(self) -> None:
        """Write what waits and tell the audit log the head. Tries only."""
        try:
            await self.flush()
            if self._number > self._told:
                await self._audit.record(_head_event(self._chain, self._number, self._head))
                self._told = self._number
        except PkiError as error:
            _log.error("{count} entries of the time-stamp log are lost: {why}", count=self.waiting, why=str(error))


def _head_event(chain: int, number: int, head: bytes) -> AuditEvent:
    details = (("number", str(number)), ("hash", head.hex()))
    return AuditEvent(AuditKind.CHECKPOINT, "system", f"timestamp-log {chain}", details=details)


def check_chain(entries: Iterable[Entry]) -> tuple[int, str | None]:
    """How many entries of a chain are sound, and what is wrong with the next one (None: nothing, it is the end)."""
    count, head = 0, b""
    for entry in entries:
        if not count:
            head = genesis(entry.chain)
        if entry.number != count + 1:
            return count, f"entry {count + 1} is missing"
        if entry.prev_hash != head or entry_hash(entry) != entry.hash:
            return count, f"entry {entry.number} is not what was written"
        if entry.token is not None and hashlib.sha256(entry.token).digest() != entry.token_sha256:
            return count, f"the token of entry {entry.number} is another one"
        count, head = entry.number, entry.hash
    return count, None
