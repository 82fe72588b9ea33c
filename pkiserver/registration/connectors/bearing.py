"""What is the same for every connector that is brought things from the durable queue."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.delivery.queue import Bring
from pkiserver.foundation.errors import PkiError
from pkiserver.store.publication.outward import Task, connector_key


@attrs.frozen
class ConnectorBearer(ABC):
    """Implements :class:`pkiserver.authority.delivery.queue.Bearer` for a connector."""

    connector: str

    @property
    def key(self) -> str:
        """The connector's name in the queue."""
        return connector_key(self.connector)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Bring]:
        """As the queue wants it; the connector opens its connections by itself."""
        yield self._bring

    @abstractmethod
    async def _bring(self, task: Task) -> None:
        """Bring one thing; raises what :data:`Bring` says."""


async def note_failure(audit: AuditLog, actor: str, name: str, change: str, error: PkiError) -> None:
    """Something will never be brought: the audit log keeps what and why."""
    details = (("change", change), ("why", str(error)))
    await audit.record(AuditEvent(AuditKind.EXPORT, actor, name, outcome="failed", details=details))
