"""Units are made, changed and removed: the TOML text is kept as it was written, with an audit row."""

from __future__ import annotations

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.tampering import DIGEST, digest
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.tomlfile import dump
from pkiserver.store.authority import templates as rows
from pkiserver.store.authority.templates import ConfigObject
from pkiserver.store.database import Database
from pkiserver.timestamping.unit import KIND, TimestampUnit, load_unit


@attrs.frozen
class UnitAdministration:
    """Writes units."""

    database: Database
    audit: AuditLog
    clock: Clock

    async def create(self, unit: TimestampUnit, *, by: str) -> ConfigObject:
        """Keep a new unit; raises :class:`Rejected` where the name is taken."""
        return await self.save(dump(unit), by=by)

    async def save(self, text: str, *, by: str, expected: int | None = None) -> ConfigObject:
        """Keep a unit's text as a new unit (``expected`` None), or instead of revision ``expected``.

        Raises:
            ConfigurationError: the text is no unit.
            Rejected: the name is taken, or somebody else changed the unit meanwhile.
        """
        unit = load_unit(text, "unit")
        now = self.clock.now()

        def work(connection: Connection) -> ConfigObject:
            row = rows.put(connection, unit.name, text, now=now, expected=expected, kind=KIND)
            what = "created" if expected is None else "changed"
            change = (("change", what), ("revision", str(row.revision)), (DIGEST, digest(text)))
            self._note(connection, change, unit.name, by)
            return row

        return await self.database.write(work)

    async def remove(self, name: str, *, by: str, expected: int) -> None:
        """Forget a unit. Its keys and certificates stay.

        Raises:
            Rejected: somebody else changed or removed it meanwhile.
        """

        def work(connection: Connection) -> None:
            rows.remove(connection, name, expected=expected, kind=KIND)
            self._note(connection, (("change", "removed"), ("revision", str(expected))), name, by)

        await self.database.write(work)

    def _note(self, connection: Connection, change: tuple[tuple[str, str], ...], name: str, by: str) -> None:
        self.audit.append(connection, AuditEvent(AuditKind.CONFIGURATION, by, f"{KIND} {name}", details=change))
