"""PostgreSQL's notifications, heard by the reactor: what another process changed is known a moment after its commit.

Notifications only wake. Whoever needs the truth reads the feeds, and goes on doing so by the clock: a notification that
gets lost, or a listening connection that breaks, costs time and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pkiserver.store.database import Database

if TYPE_CHECKING:
    import psycopg

RETRY_SECONDS = 1.0
"""From the loss of the connection to the next try."""
_CONNECT_SECONDS = 5


@implementer(IReadDescriptor)
class Listening:
    """A connection that listens from :meth:`start` to :meth:`stop`; does nothing where the database is SQLite.

    Args:
        database: Where.
        heard: What to call, on the reactor's thread, for each channel; also when the connection is new, because
            something may have been said before.
        reactor: The running reactor; the installed one by default.
    """

    _log = Logger()

    def __init__(self, database: Database, heard: Mapping[str, Callable[[], object]], *, reactor: Any = None) -> None:
        if reactor is None:
            from twisted.internet import reactor as installed

            reactor = installed
        self._reactor = reactor
        self._database = database
        self._heard = dict(heard)
        self._connection: psycopg.Connection[Any] | None = None
        self._socket = -1
        self._running = False
        self._told = False

    @property
    def is_listening(self) -> bool:
        """Whether notifications come in now."""
        return self._connection is not None

    def start(self) -> None:
        """Begin; the connection is made in a thread."""
        if not self._database.is_sqlite:
            self._running = True
            self._connect()

    def stop(self) -> None:
        """End."""
        self._running = False
        self._drop()

    # Twisted's side

    def fileno(self) -> int:
        """The connection's socket."""
        return self._socket

    def logPrefix(self) -> str:  # noqa: N802
        """For Twisted's log."""
        return "notifications"

    def doRead(self) -> None:  # noqa: N802
        """Take what has come, and call once for each channel."""
        import psycopg

        assert self._connection is not None
        channels = set()
        try:
            pgconn = self._connection.pgconn
            pgconn.consume_input()
            while (notify := pgconn.notifies()) is not None:
                channels.add(notify.relname.decode())
        except psycopg.Error as error:
            self._lost(str(error))
            return
        for channel in channels:
            if channel in self._heard:
                self._heard[channel]()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        """The reactor found the socket closed, or stops."""
        self._lost(reason.getErrorMessage())

    # Connecting

    def _connect(self) -> None:
        if not self._running:
            return
        made: Deferred[Any] = deferToThread(_open, self._database.conninfo, tuple(self._heard))
        made.addCallbacks(self._connected, self._failed)

    def _connected(self, connection: psycopg.Connection[Any]) -> None:
        if not self._running:
            connection.close()
            return
        self._connection = connection
        # A descriptor of our own: libpq closes its own when the connection breaks, while the reactor still watches it.
        self._socket = os.dup(connection.pgconn.socket)
        self._told = False
        self._reactor.addReader(self)
        for call in self._heard.values():
            call()

    def _failed(self, failure: Failure) -> None:
        if not self._told and self._running:
            self._log.warn("no notifications from the database: {why}", why=failure.getErrorMessage())
            self._told = True
        self._reactor.callLater(RETRY_SECONDS, self._connect)

    def _lost(self, why: str) -> None:
        self._drop()
        if self._running:
            self._log.warn("the connection for notifications is lost: {why}", why=why)
            self._reactor.callLater(RETRY_SECONDS, self._connect)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._reactor.removeReader(self)
            os.close(self._socket)
            self._socket = -1
            connection.close()


def _open(conninfo: str, channels: tuple[str, ...]) -> psycopg.Connection[Any]:
    import psycopg
    from psycopg import sql

    connection: psycopg.Connection[Any] = psycopg.connect(
        conninfo,
        autocommit=True,
        connect_timeout=_CONNECT_SECONDS,
        application_name="pkiserver listener",
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
    )
    for channel in channels:
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    return connection
