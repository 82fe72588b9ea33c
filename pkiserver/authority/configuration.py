"""Configuration that all nodes share, as TOML documents: compare with the database, then change it, all or nothing.

A document is one object: ``kind = "template"`` is a certificate template, kept with its comments; ``kind =
"authority"`` the settings of an authority that exists (making one needs keys: ``pkiserver ca``). Rooms above this one
bring the readers of their own kinds (:data:`Readers`).
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.settingchecks import as_problems, contradictions, unknown_templates
from pkiserver.authority.settings import AuthoritySettings
from pkiserver.authority.tampering import DIGEST, digest
from pkiserver.authority.templates.library import load_template
from pkiserver.authority.templates.model import EST_OPERATIONS, INTERNAL, EvidenceKind, Template
from pkiserver.authority.templates.reach import unreachable
from pkiserver.authority.templates.weaknesses import weaknesses
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.tomlfile import ConfigurationError, Invalid, Problem, TomlIndex, dump, load
from pkiserver.store.authority import authorities as authority_rows
from pkiserver.store.authority import foreign
from pkiserver.store.authority import templates as object_rows
from pkiserver.store.database import Database


class Kind(StrEnum):
    """What a document describes."""

    TEMPLATE = "template"
    AUTHORITY = "authority"
    TIMESTAMP_UNIT = "timestamp-unit"
    CONNECTOR = "connector"
    FOREIGN_CA = "foreign-ca"
    DIRECTORY = "directory"


_KINDS = ", ".join(f'"{kind}"' for kind in Kind)


class Named(Protocol):
    """What a document says, read and checked."""

    @property
    def name(self) -> str:
        """The object's name."""


@runtime_checkable
class Certified(Named, Protocol):
    """What an authority of this server has to certify before it is of any use."""

    @property
    def issuer(self) -> str:
        """The authority's name."""


Readers = Mapping[Kind, Callable[[str, str], Named]]
"""How other rooms' documents are read: from text and file name; raises :class:`ConfigurationError`."""
_SETTINGS = "settings"
"""The table of an authority's document that has its settings."""
_KEPT_AS_TEXT = (Kind.TEMPLATE, Kind.TIMESTAMP_UNIT, Kind.CONNECTOR, Kind.FOREIGN_CA, Kind.DIRECTORY)


@attrs.frozen
class AuthorityDocument:
    """The settings of one authority, as a document."""

    name: str
    kind: Literal["authority"] = "authority"
    settings: AuthoritySettings = attrs.field(factory=AuthoritySettings)

    def __attrs_post_init__(self) -> None:
        if self.name.lower() in EST_OPERATIONS:
            raise Invalid(f'"{self.name}" is an operation path of EST and cannot be a label', key="name")


@attrs.frozen
class Document:
    """One object as read from a file. ``text`` is what the database keeps; ``source`` is what the file says."""

    kind: Kind
    name: str
    text: str
    file: str
    value: Named
    source: str = attrs.field(repr=False)


@attrs.frozen
class Key:
    """Kind and name of an object."""

    kind: Kind
    name: str

    @classmethod
    def parse(cls, text: str) -> Key:
        """From ``template/tls-server``; raises :class:`Rejected`."""
        kind, _, name = text.partition("/")
        if kind not in set(Kind) or not name:
            kinds = " or ".join(f"{kind}/NAME" for kind in Kind)
            raise Rejected.because(Refusal.CONFIGURATION, f"{text!r} names no object (allowed: {kinds})")
        return cls(Kind(kind), name)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@attrs.frozen
class Change:
    """One object that will be added (``before`` None), removed (``after`` None) or changed.

    ``revision`` is what the database had when the plan was made; authorities have none.
    """

    key: Key
    before: str | None
    after: str | None
    revision: int | None

    @property
    def what(self) -> str:
        """``add``, ``remove`` or ``change``."""
        if self.before is None:
            return "add"
        return "remove" if self.after is None else "change"

    def difference(self) -> str:
        """A unified diff of the texts."""
        lines = difflib.unified_diff(
            (self.before or "").splitlines(),
            (self.after or "").splitlines(),
            f"{self.key} (now)",
            f"{self.key} (then)",
            lineterm="",
        )
        return "\n".join(lines)


@attrs.frozen
class Plan:
    """What applying documents would do, and what is worth knowing before. ``unchanged`` counts the rest."""

    changes: tuple[Change, ...]
    unchanged: int
    notes: tuple[str, ...] = ()


def read_documents(files: Iterable[tuple[str, str]], readers: Readers | None = None) -> tuple[Document, ...]:
    """Documents from (file name, text) pairs; those of kinds that other rooms know by their ``readers``.

    Raises:
        ConfigurationError: every problem of every file, and objects that two files describe.
    """
    problems: list[Problem] = []
    found: dict[tuple[Kind, str], Document] = {}
    for file, text in files:
        try:
            document = _read_document(file, text, readers or {})
        except ConfigurationError as error:
            problems += error.problems
            continue
        key = (document.kind, document.name)
        if key in found:
            message = f"{document.kind} {document.name} is in {found[key].file} already"
            problems.append(Problem(file, 1, "name", message))
        found[key] = document
    if problems:
        raise ConfigurationError(problems)
    return tuple(found.values())


def _read_document(file: str, text: str, readers: Readers) -> Document:
    try:
        kind = tomllib.loads(text).get("kind")
    except (tomllib.TOMLDecodeError, RecursionError):
        kind = Kind.TEMPLATE  # the loader says what is wrong, and where
    if kind is None:
        return _read_unmarked(file, text)
    if not isinstance(kind, str) or kind not in set(Kind):
        line = TomlIndex(text).line(("kind",))
        raise ConfigurationError([Problem(file, line, "kind", f"{kind!r} is no kind of object", _KINDS)])
    if kind == Kind.AUTHORITY:
        authority = load(AuthorityDocument, text, file)
        if problems := as_problems(contradictions(authority.settings), text, file, _SETTINGS):
            raise ConfigurationError(problems)
        return Document(Kind.AUTHORITY, authority.name, dump(authority.settings), file, authority, text)
    if kind in readers:
        value = readers[Kind(kind)](text, file)
        return Document(Kind(kind), value.name, text, file, value, text)
    template = load_template(text, file)
    return Document(Kind.TEMPLATE, template.name, text, file, template, text)


def _read_unmarked(file: str, text: str) -> Document:
    """A document without ``kind``: a template, or a mistake that says so before all that follows from it."""
    try:
        template = load_template(text, file)
    except ConfigurationError as error:
        said = Problem(file, 1, "kind", "is missing, so this was read as a template", _KINDS)
        raise ConfigurationError([said, *error.problems]) from error
    return Document(Kind.TEMPLATE, template.name, text, file, template, text)


@attrs.frozen
class _Stored:
    text: str
    revision: int | None


_State = Mapping[tuple[Kind, str], _Stored]


def _state(connection: Connection) -> _State:
    found = {
        (kind, row.name): _Stored(row.toml, row.revision)
        for kind in _KEPT_AS_TEXT
        for row in object_rows.list_all(connection, kind=kind)
    }
    found |= {(Kind.AUTHORITY, row.name): _Stored(row.config, None) for row in authority_rows.list_all(connection)}
    return found


class Configuration:
    """Compares, changes and exports the shared configuration."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock

    async def plan(self, documents: Iterable[Document], *, remove: Iterable[Key] = (), prune: bool = False) -> Plan:
        """What applying would change.

        Args:
            documents: The objects as they shall be.
            remove: Objects that shall not be.
            prune: Remove templates that are not among ``documents``.

        Raises:
            Rejected: an object to be removed does not exist, an authority does not exist or would be removed, names a
                template that will not be there, or an object is both given and removed; with every reason.
        """
        state = await self._database.read(_state)
        given = {(document.kind, document.name): document for document in documents}
        unwanted = {(key.kind, key.name): None for key in remove}
        if prune:
            unwanted |= {key: None for key in state if key[0] is Kind.TEMPLATE and key not in given}
        _check(state, given, unwanted)
        changes = []
        for key, document in given.items():
            now = state.get(key)
            if now is None or now.text != document.text:
                before, revision = (now.text, now.revision) if now is not None else (None, None)
                changes.append(Change(Key(*key), before, document.text, revision))
        changes += [Change(Key(*key), state[key].text, None, state[key].revision) for key in unwanted]
        unchanged = len(given) + len(unwanted) - len(changes)
        return Plan(tuple(changes), unchanged, _notes(state, given.values()))

    async def apply(self, plan: Plan, *, by: str) -> None:
        """Make the changes of a plan and audit them, in one transaction.

        Raises:
            Rejected: somebody else changed one of the objects since the plan was made; nothing is changed.
            Unavailable: the database cannot be written.
        """

        def work(connection: Connection) -> None:
            for change in plan.changes:
                revision = self._make(connection, change)
                details = [("change", change.what), ("revision", str(revision))]
                if change.after is not None:
                    details.append((DIGEST, digest(change.after)))
                self._audit.append(
                    connection, AuditEvent(AuditKind.CONFIGURATION, by, str(change.key), details=tuple(details))
                )

        if plan.changes:
            await self._database.write(work)

    def _make(self, connection: Connection, change: Change) -> int:
        name, now = change.key.name, self._clock.now()
        if change.key.kind is Kind.AUTHORITY:
            row = authority_rows.get(connection, name)
            if row is None or row.config != change.before or change.after is None:
                raise Rejected.because(Refusal.CONFLICT, f"{change.key} was changed meanwhile; look at it again")
            authority_rows.update_authority(connection, name, config=change.after, state=row.state)
            return 0
        if change.key.kind is Kind.FOREIGN_CA and _certificate(change.before) != _certificate(change.after):
            foreign.forget(connection, name)  # the lists of one authority say nothing of another's certificates
        if change.after is None:
            assert change.revision is not None
            object_rows.remove(connection, name, expected=change.revision, kind=change.key.kind)
            return change.revision
        kind = change.key.kind
        return object_rows.put(connection, name, change.after, now=now, expected=change.revision, kind=kind).revision

    async def export(self, *, by: str, wanted: Iterable[Key] = ()) -> tuple[tuple[Key, str], ...]:
        """Objects as the texts that :func:`read_documents` reads back; all of them when none is named. Audited.

        Raises:
            Rejected: a named object does not exist; with every reason.
        """
        state = await self._database.read(_state)
        chosen = [(key.kind, key.name) for key in wanted] or sorted(state)
        missing = [key for key in chosen if key not in state]
        if missing:
            raise Rejected(_reason(f"there is no {kind} {name}") for kind, name in missing)
        event = AuditEvent(AuditKind.EXPORT, by, "configuration", details=(("count", str(len(chosen))),))
        await self._audit.record(event)
        return tuple((Key(*key), _exported(key, state[key].text)) for key in chosen)


def _exported(key: tuple[Kind, str], text: str) -> str:
    if key[0] in _KEPT_AS_TEXT:
        return text
    return dump(AuthorityDocument(key[1], settings=load(AuthoritySettings, text, f"authority {key[1]}")))


def _certificate(text: str | None) -> object:
    """Of which authority a document tells."""
    return None if text is None else tomllib.loads(text).get("certificate")


def _reason(text: str) -> Reason:
    return Reason(Refusal.CONFIGURATION, text)


def _check(
    state: _State, given: Mapping[tuple[Kind, str], Document], unwanted: Mapping[tuple[Kind, str], None]
) -> None:
    if problems := _problems(state, given, unwanted):
        raise ConfigurationError(problems)
    reasons = []
    for key in unwanted:
        if key[0] is Kind.AUTHORITY:
            reasons.append(_reason("an authority is not removed by apply; see pkiserver ca"))
        elif key not in state:
            reasons.append(_reason(f"there is no {key[0]} {key[1]} to remove"))
        elif key in given:
            reasons.append(_reason(f"{key[0]} {key[1]} is both given and to be removed"))
    if reasons:
        raise Rejected(reasons)


def _problems(
    state: _State, given: Mapping[tuple[Kind, str], Document], unwanted: Mapping[tuple[Kind, str], None]
) -> list[Problem]:
    """What documents name that is not there, each at its line."""
    templates = {name for kind, name in (*state, *given) if kind is Kind.TEMPLATE and (kind, name) not in unwanted}
    known = {name for kind, name in state if kind is Kind.AUTHORITY}
    problems: list[Problem] = []
    for (kind, name), document in given.items():
        if kind is Kind.AUTHORITY and name not in known:
            problems.append(_no_authority(known, document, "name", name))
        elif isinstance(document.value, AuthorityDocument) and document.text != state[kind, name].text:
            found = unknown_templates(document.value.settings, templates)
            problems += as_problems(found, document.source, document.file, _SETTINGS)
        elif kind is Kind.TIMESTAMP_UNIT and isinstance(unit := document.value, Certified) and unit.issuer not in known:
            problems.append(_no_authority(known, document, "issuer", unit.issuer))
    return problems


def _no_authority(known: Iterable[str], document: Document, key: str, name: str) -> Problem:
    line, allowed = TomlIndex(document.source).line((key,)), ", ".join(f'"{one}"' for one in sorted(known)) or None
    return Problem(document.file, line, key, f'there is no authority "{name}"; make it with pkiserver ca', allowed)


def _notes(state: _State, documents: Iterable[Document]) -> tuple[str, ...]:
    given = tuple(documents)
    connectors = {name for kind, name in state if kind is Kind.CONNECTOR}
    connectors |= {INTERNAL, *(document.name for document in given if document.kind is Kind.CONNECTOR)}
    notes = []
    for document in given:
        template = document.value
        if not isinstance(template, Template):
            continue
        if (Kind.AUTHORITY, template.issuer) not in state:
            text = f'there is no authority "{template.issuer}" yet; it issues nothing until then'
            notes.append(f"template {template.name}: {text}")
        named = {name for rule in template.evidence for name in rule.connectors}
        notes += [
            f'template {template.name}: there is no connector "{name}" yet; it vouches for nobody until then'
            for name in sorted(named - connectors)
        ]
        if any(EvidenceKind.ANONYMOUS in rule.all for rule in template.evidence):
            notes.append(f"template {template.name}: anonymous: whoever reaches the server gets a certificate")
        notes += [*weaknesses(template), *unreachable(template)]
    return tuple(notes)
