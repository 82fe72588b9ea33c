"""The directories that are published to, read from the database."""

from __future__ import annotations

import attrs

from pkiserver.authority.templates.library import TemplateLibrary
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.publication.outward.bearer import DirectoryBearer
from pkiserver.publication.outward.settings import load_directory
from pkiserver.store.authority import templates as rows
from pkiserver.store.authority.templates import ConfigObject
from pkiserver.store.database import Database
from pkiserver.store.publication.outward import DIRECTORY


@attrs.frozen
class DirectoryProblem:
    """Why a directory in the database cannot be used."""

    directory: str
    text: str


class Directories:
    """All directories, as of the last :meth:`refresh`."""

    def __init__(self, database: Database, templates: TemplateLibrary, clock: Clock) -> None:
        self._database = database
        self._templates = templates
        self._clock = clock
        self._all: dict[str, tuple[ConfigObject, DirectoryBearer]] = {}
        self._problems: tuple[DirectoryProblem, ...] = ()

    async def refresh(self) -> None:
        """Read all directories; one that cannot be used stops no other. Raises :class:`Unavailable`."""
        found = await self._database.read(lambda connection: rows.list_all(connection, kind=DIRECTORY))
        live: dict[str, tuple[ConfigObject, DirectoryBearer]] = {}
        problems = []
        for row in found:
            known = self._all.get(row.name)
            if known is not None and known[0] == row:
                live[row.name] = known
                continue
            try:
                settings = load_directory(row.toml, f"directory {row.name}")
            except Rejected as error:
                problems.append(DirectoryProblem(row.name, str(error)))
                continue
            live[row.name] = (row, DirectoryBearer(settings, self._database, self._templates, self._clock))
        self._all, self._problems = live, tuple(problems)

    def list(self) -> tuple[DirectoryBearer, ...]:
        """Every usable directory, by name."""
        return tuple(bearer for _, bearer in self._all.values())

    def get(self, name: str) -> DirectoryBearer:
        """The directory of that name; raises :class:`Rejected`."""
        if name not in self._all:
            known = ", ".join(self._all) or "there are none"
            raise Rejected.because(Refusal.CONFIGURATION, f"there is no usable directory {name} (known: {known})")
        return self._all[name][1]

    def problems(self) -> tuple[DirectoryProblem, ...]:
        """Directories that cannot be used, and why."""
        return self._problems
