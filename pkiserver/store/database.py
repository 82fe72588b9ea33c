"""The database as the reactor sees it: awaitable reads and durable writes that never block it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from pkiserver.foundation.errors import Unavailable
from pkiserver.store.engines import is_sqlite, parse_url, reading_engine, sqlite_path, writing_engine
from pkiserver.store.failures import Kind, as_domain_error, is_read_only, kind_of
from pkiserver.store.looks import Looks
from pkiserver.store.migrate import require_current
from pkiserver.store.outbox import Outbox
from pkiserver.store.writer import Job, Outcome, Participant, WhenIdle, Writer, deliver

T = TypeVar("T")

QUEUE_LIMIT = 4096
"""Writes, and likewise reads, that may wait; more are refused at once."""


@attrs.frozen
class DatabaseCounts:
    """Figures for metrics and readiness; counts are since the start."""

    waiting_writes: int
    waiting_reads: int
    transactions: int
    writes: int
    failed_writes: int
    retries: int
    reconnects: int


class Database:
    """One process's way to the database. Made by :meth:`open`."""

    def __init__(self, url: URL, *, readers: int, reactor: Any, queue_limit: int, when_idle: WhenIdle | None) -> None:
        self._url = url
        self._reactor = reactor
        self._limit = queue_limit
        self._reading = 0
        self._writing = 0
        self._losses = 0
        self._losing = threading.Lock()
        self._closed = False
        self._read_engine: Engine = reading_engine(url, readers + 1)
        self._read_connections: list[Connection] = []
        self._renewed = 0
        self._write_engine: Engine = writing_engine(url)
        self._pool = ThreadPool(minthreads=0, maxthreads=readers, name="store-readers")
        self._ahead = ThreadPool(minthreads=0, maxthreads=1, name="store-ahead")
        self._writer = Writer(
            self._write_engine, self._outcomes, limit=queue_limit, outdated=self._outdated, when_idle=when_idle
        )
        self._writer.join(Outbox())
        self._looks = None if when_idle is None else Looks(reactor, self._pool, self._read, when_idle)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        readers: int = 2,
        reactor: IReactorFromThreads | None = None,
        queue_limit: int = QUEUE_LIMIT,
        writing: bool = True,
        when_idle: WhenIdle | None = None,
    ) -> Database:
        """Open the database, whose schema must be this program's (:func:`pkiserver.store.migrate.migrate`).

        Args:
            url: ``sqlite:///path`` or ``postgresql://user@host/name``.
            readers: Connections, and threads, that read; one more is for :meth:`read_ahead`.
            reactor: The running reactor; the installed one by default.
            queue_limit: Writes that may wait before :class:`Unavailable` is raised; the same number for reads.
            writing: Whether to find out at once that it can be written; who only looks needs no right to.
            when_idle: What says when the reactor has nothing to do: writes wait for that and share a transaction,
                looks (:meth:`look_up`) a snapshot.

        Raises:
            Rejected: the URL is not understood, or the schema is not this program's.
            Unavailable: the database cannot be reached.
        """
        if reactor is None:
            from twisted.internet import reactor as installed

            reactor = cast("IReactorFromThreads", installed)
        database = cls(parse_url(url), readers=readers, reactor=reactor, queue_limit=queue_limit, when_idle=when_idle)
        database._pool.start()
        database._ahead.start()
        database._writer.start()
        try:
            await database.read(require_current)
            if writing:
                await database.write(lambda _connection: None)
        except BaseException:
            await database.close()
            raise
        return database

    @property
    def is_sqlite(self) -> bool:
        """Whether this is the embedded database, which has no NOTIFY."""
        return is_sqlite(self._url)

    @property
    def file(self) -> Path | None:
        """Where the embedded database is; None for PostgreSQL."""
        return sqlite_path(self._url) if self.is_sqlite else None

    @property
    def losses(self) -> int:
        """How often connections were found broken since the start; it rises before the next one says anything.

        Another server may be behind that one, which took over and lacks the last transactions: who remembers what the
        database said before this number rose must not go on from there.
        """
        return self._losses

    @property
    def conninfo(self) -> str:
        """The URL as libpq reads it, password included: for a listening connection only; never log it.

        Raises:
            ValueError: the database is not PostgreSQL.
        """
        if self.is_sqlite:
            raise ValueError("SQLite has no connection string")
        return self._url.set(drivername="postgresql").render_as_string(hide_password=False)

    def join(self, participant: Participant) -> None:
        """Let ``participant`` follow every transaction of this process's writer; see :class:`Participant`.

        The last to join is flushed first, so that the feeds' counters are locked for the shortest time.
        """
        self._writer.join(participant)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` on a reader thread, in one consistent snapshot that can write nothing.

        Raises:
            Unavailable: the database cannot be reached, or too many reads wait.
            Defect: the database refused a statement.
        """
        self._require_reading()
        self._reading += 1
        try:
            return cast("T", await deferToThreadPool(self._reactor, self._pool, self._read, work))
        finally:
            self._reading -= 1

    def _require_reading(self) -> None:
        if self._closed:
            raise Unavailable("the database is closed")
        if self._reading >= self._limit:
            raise Unavailable("too many reads are waiting for the database", retry_after=2)

    async def look_up(self, work: Callable[[Connection], T]) -> T:
        """As :meth:`read`, for what is found by a key: it shares a thread and a snapshot with others of its moment.

        Raises:
            Unavailable: as :meth:`read`.
            Defect: as :meth:`read`. What ``work`` raises itself comes back to its own caller alone.
        """
        if self._looks is None:
            return await self.read(work)
        self._require_reading()
        self._reading += 1
        try:
            return cast("T", await self._looks.add(work))
        finally:
            self._reading -= 1

    async def read_ahead(self, work: Callable[[Connection], T]) -> T:
        """As :meth:`read`, on a thread and connection that wait behind no other reads.

        For the looks that keep caches believed: a cache that is not sends every question to the database, and a look
        that had to wait behind all of these would come too late again.
        """
        if self._closed:
            raise Unavailable("the database is closed")
        return cast("T", await deferToThreadPool(self._reactor, self._ahead, self._read, work))

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction on the writer thread; return its value once the commit is durable.

        ``work`` may share its transaction with others and must be able to run again from the start: where one of a
        group fails, the group is rolled back and run without it, and the failed one runs alone. Its own exceptions come
        back to its own caller.

        Raises:
            Unavailable: the database cannot be reached or the queue is full. When the connection was lost during
                commit it is :class:`pkiserver.store.failures.OutcomeUnknown`.
            Defect: the database refused a statement or a constraint was broken.
        """
        waiting: Deferred[T] = Deferred()
        self._writer.submit(Job(work, waiting))
        self._writing += 1
        try:
            return await waiting
        finally:
            self._writing -= 1

    @property
    def is_writing(self) -> bool:
        """Whether somebody waits for a write: whoever gives up waiting does not learn whether it was done."""
        return self._writing > 0

    async def written(self) -> None:
        """Return when those who wait for a write now have been told what became of it."""
        if self._writing:
            with suppress(Unavailable):
                await self.write(lambda _connection: None)  # each has its turn

    def counts(self) -> DatabaseCounts:
        """What has happened so far."""
        counts = self._writer.counts
        return DatabaseCounts(
            waiting_writes=self._writer.waiting,
            waiting_reads=self._reading,
            transactions=counts.transactions,
            writes=counts.jobs,
            failed_writes=counts.failed_jobs,
            retries=counts.retries,
            reconnects=counts.reconnects,
        )

    async def close(self) -> None:
        """Finish what is queued and close every connection."""
        if self._closed:
            return
        self._closed = True
        self._writer.finish()
        if self._looks is not None:
            self._looks.hand_over()
        done: Deferred[None] = Deferred()
        # A thread of its own: neither the reactor nor a pool's thread may wait for that pool to end.
        threading.Thread(target=self._shut, args=(done,), name="store-closing", daemon=True).start()
        await done

    def _shut(self, done: Deferred[None]) -> None:
        try:
            self._writer.close()
            self._pool.stop()
            self._ahead.stop()
            self._forget_connections()
            self._read_engine.dispose()
            self._write_engine.dispose()
        finally:
            self._reactor.callFromThread(done.callback, None)

    def _read(self, work: Callable[[Connection], T]) -> T:
        try:
            try:
                return self._read_once(work)
            except DBAPIError as error:
                if kind_of(error) is not Kind.LOST:
                    raise
            # The connections were lost while they lay idle; a new one shows whether the database is there.
            self._forget_connections()
            with self._losing:
                self._losses += 1
            return self._read_once(work)
        except SQLAlchemyError as error:
            raise as_domain_error(error) from error

    def _read_once(self, work: Callable[[Connection], T]) -> T:
        # handed from read to read: going through the engine's pool costs as much as looking up one row
        renewed = self._renewed
        connection = self._idle() or self._read_engine.connect()
        try:
            value = work(connection)
            connection.rollback()
        except BaseException:
            connection.close()  # the pool makes it usable again, or throws it away
            raise
        if renewed != self._renewed:
            connection.invalidate()
            connection.close()
        else:
            self._read_connections.append(connection)
        return value

    def _idle(self) -> Connection | None:
        try:
            return self._read_connections.pop()
        except IndexError:
            return None

    def _forget_connections(self) -> None:
        while (connection := self._idle()) is not None:
            connection.close()

    def _outdated(self, error: Exception) -> bool:
        """Whether a file that was opened while it could only be read can be written now; on the writer thread.

        SQLite opens what it cannot write for reading, and shares what it knows of the file between all connections of
        a process: those that read must end before one that writes is opened.
        """
        if self.file is None or not is_read_only(error) or not os.access(self.file, os.W_OK, effective_ids=True):
            return False
        self._renewed += 1
        self._forget_connections()
        self._read_engine.dispose()
        return True

    def _outcomes(self, outcomes: Sequence[Outcome]) -> None:
        self._reactor.callFromThread(deliver, outcomes)
