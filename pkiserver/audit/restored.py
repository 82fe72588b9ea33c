"""A database that was restored from a backup: the first server that is started with it says so in the audit log."""

from __future__ import annotations

from sqlalchemy import Connection
from twisted.logger import Logger

from pkiserver.audit.events import AuditEvent, AuditKind
from pkiserver.audit.log import AuditLog
from pkiserver.store import backup
from pkiserver.store.database import Database

_log = Logger(namespace="pkiserver.audit")


async def tell_of_restore(database: Database, audit: AuditLog) -> None:
    """Once for each restore; what PostgreSQL's own tools restore is not known here. Raises :class:`Unavailable`."""
    if not database.is_sqlite or await database.read(backup.copied_at) is None:
        return

    def work(connection: Connection) -> str | None:
        at = backup.copied_at(connection)
        if at is None:  # another process was quicker
            return None
        told = f"restored from the backup of {at:%Y-%m-%d %H:%MZ}"
        audit.append(connection, AuditEvent(AuditKind.RECOVERY, "server", "database", details=(("change", told),)))
        backup.forget_copying(connection)
        return told

    told = await database.write(work)
    if told is not None:
        _log.warn("the database was {told}", told=told)
