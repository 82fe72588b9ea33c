"""Hand issued certificates to the connectors that write them down; beside the road, never in its way.

What is to be written stands in the queue from the transaction that stores the certificate on, so that neither a restart
nor a long outage loses it. What a directory refuses for good is noted in the audit log: the certificate is in the store
whatever becomes of its copy.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditLog
from pkiserver.authority.delivery.queue import NotTaken, TargetDown
from pkiserver.authority.requests import IssuedCertificate
from pkiserver.foundation.errors import PkiError, Unavailable
from pkiserver.registration.connectors.bearing import ConnectorBearer, note_failure
from pkiserver.registration.connectors.library import Connectors
from pkiserver.store import certificates
from pkiserver.store.database import Database
from pkiserver.store.publication import outward
from pkiserver.store.publication.outward import Task, connector_key


@attrs.frozen
class _Copy:
    """What is written: to whose entry, which certificate, in place of which (DER)."""

    user: str
    certificate: bytes | None
    replaced: tuple[bytes, ...]


@attrs.frozen
class CertificateCopies:
    """Writes certificates through the connectors that vouched for their holders."""

    database: Database
    audit: AuditLog
    connectors: Connectors

    def on_issue(
        self, requester: str, replaced: tuple[int, ...]
    ) -> Callable[[Connection, IssuedCertificate], None] | None:
        """What goes into the transaction of a requester's certificate, which replaces others (numbers in the store)."""
        connector, colon, user = requester.partition(":")
        if not colon or not self.connectors.publishes(connector):
            return None
        detail = json.dumps({"user": user, "replaced": replaced})

        def work(connection: Connection, issued: IssuedCertificate) -> None:
            outward.enqueue(connection, [connector_key(connector)], [str(issued.certificate_id)], detail)

        return work

    def bearers(self) -> tuple[CopyBearer, ...]:
        """One for each connector that writes certificates."""
        names = (one.name for one in self.connectors.list())
        return tuple(CopyBearer(name, self) for name in names if self.connectors.publishes(name))


@attrs.frozen
class CopyBearer(ConnectorBearer):
    """Brings certificates to one connector."""

    copies: CertificateCopies

    async def _bring(self, task: Task) -> None:
        copy = await self.copies.database.read(lambda connection: _read(connection, task))
        if copy.certificate is None:
            raise NotTaken("the certificate is not in the store", final=True)
        try:
            await self.copies.connectors.publish(self.connector, copy.user, copy.certificate, copy.replaced)
        except Unavailable as error:
            raise TargetDown(str(error)) from error
        except PkiError as error:
            name = f"user {self.connector}:{copy.user}"
            await note_failure(self.copies.audit, "publisher", name, "certificate not written", error)
            raise NotTaken(str(error), final=True) from error


def _read(connection: Connection, task: Task) -> _Copy:
    detail = json.loads(task.detail or "{}")
    new = certificates.get(connection, int(task.subject))
    old = (certificates.get(connection, number) for number in detail.get("replaced", ()))
    return _Copy(
        user=detail.get("user", ""),
        certificate=None if new is None else new.der,
        replaced=tuple(one.der for one in old if one is not None and one.der is not None),
    )
