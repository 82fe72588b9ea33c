"""Hand issued certificates to the connectors that write them down; beside the road, never in its way.

What cannot be written is tried again a few times and then noted in the audit log: the certificate is in the store
whatever becomes of its copy.
"""

from __future__ import annotations

from sqlalchemy import Connection
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.foundation.errors import PkiError, Unavailable
from pkiserver.registration.connectors.library import Connectors
from pkiserver.store import certificates
from pkiserver.store.database import Database

PAUSES = (5.0, 30.0, 120.0, 600.0)
"""Seconds before each further attempt."""
MOST_WAITING = 10_000
_log = Logger(namespace="pkiserver.connectors")


class CertificateCopies:
    """Writes certificates through the connectors that vouched for their holders."""

    def __init__(self, database: Database, audit: AuditLog, connectors: Connectors) -> None:
        self._database = database
        self._audit = audit
        self._connectors = connectors
        self._waiting: set[IDelayedCall] = set()

    def issued(self, requester: str, certificate: bytes, replaced: tuple[int, ...]) -> None:
        """A DER certificate was issued to a requester, in place of others (numbers in the store); returns at once."""
        connector, colon, user = requester.partition(":")
        if colon and self._connectors.publishes(connector):
            self._start(connector, user, certificate, replaced, 0)

    def close(self) -> None:
        """Give up what waits for another attempt."""
        for call in self._waiting:
            if call.active():
                call.cancel()
        self._waiting.clear()

    def _start(self, connector: str, user: str, certificate: bytes, replaced: tuple[int, ...], attempt: int) -> None:
        work = Deferred.fromCoroutine(self._publish(connector, user, certificate, replaced, attempt))
        work.addErrback(lambda why: _log.failure("publishing for {user} failed", failure=why, user=user))

    async def _publish(
        self, connector: str, user: str, certificate: bytes, replaced: tuple[int, ...], attempt: int
    ) -> None:
        def look(connection: Connection) -> tuple[bytes, ...]:
            found = [certificates.get(connection, number) for number in replaced]
            return tuple(one.der for one in found if one is not None and one.der is not None)

        try:
            old = await self._database.read(look) if replaced else ()
            await self._connectors.publish(connector, user, certificate, old)
        except Unavailable as error:
            if attempt < len(PAUSES) and len(self._waiting) < MOST_WAITING:
                self._later(connector, user, certificate, replaced, attempt)
            else:
                await self._failed(connector, user, error)
        except PkiError as error:
            await self._failed(connector, user, error)

    def _later(self, connector: str, user: str, certificate: bytes, replaced: tuple[int, ...], attempt: int) -> None:
        def again() -> None:
            self._waiting.discard(call)
            self._start(connector, user, certificate, replaced, attempt + 1)

        call = IReactorTime(_reactor).callLater(PAUSES[attempt], again)
        self._waiting.add(call)

    async def _failed(self, connector: str, user: str, error: PkiError) -> None:
        _log.error("connector {connector} did not take a certificate: {why}", connector=connector, why=str(error))
        details = (("change", "certificate not written"), ("why", str(error)))
        event = AuditEvent(AuditKind.EXPORT, "publisher", f"user {connector}:{user}", outcome="failed", details=details)
        await self._audit.record(event)
