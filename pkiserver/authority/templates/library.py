"""The templates in force, read from the database and kept compiled; and the ready ones that ship with the program."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable

import attrs
from sqlalchemy import Connection

from pkiserver.authority.templates.build import compile_template
from pkiserver.authority.templates.model import Template
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.tomlfile import load
from pkiserver.store.authority import templates as rows
from pkiserver.store.authority.templates import ConfigObject
from pkiserver.store.database import Database


@attrs.frozen
class StoredTemplate:
    """A template with the revision and the text that the database has."""

    template: Template
    row: ConfigObject


@attrs.frozen
class TemplateProblem:
    """Why a template in the database cannot be used, for readiness and ``doctor``."""

    template: str
    text: str


class TemplateLibrary:
    """All templates, as of the last :meth:`refresh`. Cheap to ask; nothing here waits but refresh."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._all: dict[str, StoredTemplate] = {}
        self._problems: tuple[TemplateProblem, ...] = ()

    async def refresh(self) -> None:
        """Read all templates; call it when the configuration feed says that something changed.

        Those whose revision is known are not read again. One that cannot be used stops no other.
        """
        found = await self._database.read(_read)
        stored: dict[str, StoredTemplate] = {}
        problems = []
        for row in found:
            known = self._all.get(row.name)
            if known is not None and known.row == row:
                stored[row.name] = known
                continue
            try:
                stored[row.name] = read_row(row)
            except Rejected as error:
                problems.append(TemplateProblem(row.name, str(error)))
        self._all = stored
        self._problems = tuple(problems)

    def get(self, name: str) -> Template:
        """The template of that name; raises :class:`Rejected` (UNKNOWN_TEMPLATE)."""
        found = self._all.get(name)
        if found is None:
            raise Rejected.because(Refusal.UNKNOWN_TEMPLATE, f"there is no template named {name!r}")
        return found.template

    def find(self, name: str) -> Template | None:
        """The template of that name, or None."""
        found = self._all.get(name)
        return None if found is None else found.template

    def list(self) -> tuple[StoredTemplate, ...]:
        """Every usable template, by name."""
        return tuple(self._all[name] for name in sorted(self._all))

    def served(self, protocol: str) -> tuple[Template, ...]:
        """Those that a protocol may use now, by name."""
        return tuple(one.template for one in self.list() if one.template.serves(protocol))

    def problems(self) -> tuple[TemplateProblem, ...]:
        """Templates in the database that cannot be used, and why."""
        return self._problems


def read_row(row: ConfigObject) -> StoredTemplate:
    """A template from its row, compiled, so that the first request does not wait for that.

    Raises:
        ConfigurationError: the text is no valid template; the file name in it is ``template <name>``.
    """
    template = load_template(row.toml, f"template {row.name}")
    return StoredTemplate(template, row)


def load_template(text: str, filename: str) -> Template:
    """A template from TOML text; what can only be found by compiling it is found as well.

    Raises:
        ConfigurationError: with every problem, each at its line.
    """
    template = load(Template, text, filename)
    compile_template(template)
    return template


def _read(connection: Connection) -> tuple[ConfigObject, ...]:
    return rows.list_all(connection)


def ready_names() -> tuple[str, ...]:
    """The names of the ready templates."""
    return tuple(sorted(item.name.removesuffix(".toml") for item in _ready_files()))


def ready_text(name: str) -> str:
    """The TOML text of a ready template, comments and all; raises :class:`Rejected` for an unknown name."""
    for item in _ready_files():
        if item.name == f"{name}.toml":
            return item.read_text(encoding="utf-8")
    raise Rejected.because(
        Refusal.UNKNOWN_TEMPLATE, f"there is no ready template {name!r} (allowed: {', '.join(ready_names())})"
    )


def ready_template(name: str) -> Template:
    """A ready template; raises :class:`Rejected` for an unknown name."""
    return load_template(ready_text(name), f"{name}.toml")


def _ready_files() -> Iterable[Traversable]:
    return [item for item in files("pkiserver.authority").joinpath("ready").iterdir() if item.name.endswith(".toml")]
