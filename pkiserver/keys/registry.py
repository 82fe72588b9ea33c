"""Key records in the database, each change in one transaction with its audit row."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.doors import Door, format_doors
from pkiserver.keys.records import KeyRecord
from pkiserver.store.authority import keys
from pkiserver.store.database import Database


class StoreRegistry:
    """The :class:`~pkiserver.keys.records.KeyRegistry` that the server uses."""

    def __init__(self, database: Database, audit: AuditLog) -> None:
        self._database = database
        self._audit = audit

    async def list(self) -> Sequence[KeyRecord]:
        """All records, by name."""
        return [_record(row) for row in await self._database.read(keys.list_all)]

    async def add(self, record: KeyRecord, *, actor: str, operation: str) -> None:
        """Keep a new record; raises :class:`Rejected` (CONFLICT) when the name is taken."""
        row = keys.SigningKey(record.name, record.uri, record.spki, frozenset(map(str, record.doors)), record.created)
        details = (
            ("operation", operation), ("uri", record.uri), ("doors", format_doors(record.doors)),
            ("spki_sha256", row.spki_sha256.hex()),
        )  # fmt: skip

        def work(connection: Connection) -> None:
            keys.insert_key(connection, row)
            self._audit.append(connection, _event(record.name, actor, "ok", details))

        await self._database.write(work)

    async def delete(self, name: str, *, actor: str) -> None:
        """Forget a record; raises :class:`Rejected` (CONFIGURATION) when there is none."""

        def work(connection: Connection) -> None:
            if not keys.delete_key(connection, name):
                raise Rejected.because(Refusal.CONFIGURATION, f"there is no key {name!r}")
            self._audit.append(connection, _event(name, actor, "ok", (("operation", "delete"),)))

        await self._database.write(work)

    async def note(self, name: str, *, actor: str, operation: str, outcome: str, detail: str) -> None:
        """Put a key operation that changes no record into the audit log."""
        details = (("operation", operation), *((("detail", detail),) if detail else ()))
        event = _event(name, actor, outcome, details)
        await self._database.write(lambda connection: self._audit.append(connection, event))


def _event(name: str, actor: str, outcome: str, details: tuple[tuple[str, str], ...]) -> AuditEvent:
    return AuditEvent(
        kind=AuditKind.KEY_OPERATION,
        actor=actor,
        object=f"key {name}",
        outcome=outcome,
        request_id=None,
        details=details,
    )


def _record(row: keys.SigningKey) -> KeyRecord:
    return KeyRecord(row.name, row.uri, row.spki, frozenset(map(Door, row.doors)), row.created)
