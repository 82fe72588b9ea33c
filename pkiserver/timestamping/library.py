"""The units in force, read from the database and kept as values."""

from __future__ import annotations

import attrs

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.authority import templates as rows
from pkiserver.store.authority.templates import ConfigObject
from pkiserver.store.database import Database
from pkiserver.timestamping.unit import KIND, TimestampUnit, load_unit


@attrs.frozen
class UnitProblem:
    """Why a unit is not as it should be, for readiness and ``doctor``."""

    unit: str
    text: str


@attrs.frozen
class StoredUnit:
    """A unit with the row that the database has."""

    unit: TimestampUnit
    row: ConfigObject


class UnitLibrary:
    """All units, as of the last :meth:`refresh`. Cheap to ask; nothing here waits but refresh."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._all: dict[str, StoredUnit] = {}
        self._problems: tuple[UnitProblem, ...] = ()

    async def refresh(self) -> None:
        """Read all units again; one that cannot be used stops no other."""
        found = await self._database.read(lambda connection: rows.list_all(connection, kind=KIND))
        stored: dict[str, StoredUnit] = {}
        problems = []
        for row in found:
            known = self._all.get(row.name)
            try:
                fresh = known if known is not None and known.row == row else None
                stored[row.name] = fresh or StoredUnit(load_unit(row.toml, f"unit {row.name}"), row)
            except Rejected as error:
                problems.append(UnitProblem(row.name, str(error)))
        defaults = [one.unit.name for one in stored.values() if one.unit.default and one.unit.enabled]
        if len(defaults) > 1:
            problems.append(UnitProblem(defaults[0], f"several units are the default: {', '.join(defaults)}"))
        self._all = stored
        self._problems = tuple(problems)

    def list(self) -> tuple[TimestampUnit, ...]:
        """Every usable unit, by name."""
        return tuple(self._all[name].unit for name in sorted(self._all))

    def enabled(self) -> tuple[TimestampUnit, ...]:
        """Those that shall serve."""
        return tuple(one for one in self.list() if one.enabled)

    def get(self, name: str) -> TimestampUnit:
        """The unit of that name; raises :class:`Rejected` (CONFIGURATION)."""
        found = self._all.get(name)
        if found is None:
            raise Rejected.because(Refusal.CONFIGURATION, f"there is no time-stamping unit {name!r}")
        return found.unit

    def row(self, name: str) -> ConfigObject:
        """Its row; raises as :meth:`get`."""
        self.get(name)
        return self._all[name].row

    def problems(self) -> tuple[UnitProblem, ...]:
        """Units that cannot be used, and why."""
        return self._problems
