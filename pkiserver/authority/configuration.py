"""Configuration that all nodes share: compare documents with the database, then change it, all or nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import attrs
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.consent import UNASKED, Consent
from pkiserver.authority.documents import SETTINGS, AuthorityDocument, Certified, Document, Key, Kind
from pkiserver.authority.settingchecks import as_problems, unfit_keys, unknown_templates
from pkiserver.authority.settings import AuthoritySettings
from pkiserver.authority.tampering import DIGEST, digest
from pkiserver.authority.templates.model import INTERNAL, EvidenceKind, Template
from pkiserver.authority.templates.reach import unreachable
from pkiserver.authority.templates.weaknesses import weaknesses
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.tomlfile import ConfigurationError, Problem, TomlIndex, dump, load, parse
from pkiserver.store.authority import authorities as authority_rows
from pkiserver.store.authority import foreign
from pkiserver.store.authority import keys as key_rows
from pkiserver.store.authority import templates as object_rows
from pkiserver.store.authority.authorities import GenerationState
from pkiserver.store.authority.keys import SigningKey
from pkiserver.store.database import Database

_KEPT_AS_TEXT = (Kind.TEMPLATE, Kind.TIMESTAMP_UNIT, Kind.CONNECTOR, Kind.FOREIGN_CA, Kind.DIRECTORY)


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


@attrs.frozen
class _Stored:
    text: str
    revision: int | None


_State = Mapping[tuple[Kind, str], _Stored]
_Keys = Mapping[str, tuple[SigningKey, ...]]
"""By authority, those that are not retired."""


def _state(connection: Connection) -> _State:
    found = {
        (kind, row.name): _Stored(row.toml, row.revision)
        for kind in _KEPT_AS_TEXT
        for row in object_rows.list_all(connection, kind=kind)
    }
    found |= {(Kind.AUTHORITY, row.name): _Stored(row.config, None) for row in authority_rows.list_all(connection)}
    return found


def _keys(connection: Connection) -> _Keys:
    known = {key.name: key for key in key_rows.list_all(connection)}
    found: dict[str, tuple[SigningKey, ...]] = {}
    for one in authority_rows.generations(connection):
        if one.key_name in known and one.state in {GenerationState.ACTIVE, GenerationState.PREVIOUS}:
            found[one.authority] = (*found.get(one.authority, ()), known[one.key_name])
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
                template that will not be there or a use that its keys do not have, or an object is both given and
                removed; with every reason.
        """
        state, keys = await self._database.read(lambda connection: (_state(connection), _keys(connection)))
        given = {(document.kind, document.name): document for document in documents}
        unwanted = {(key.kind, key.name): None for key in remove}
        if prune:
            unwanted |= {key: None for key in state if key[0] is Kind.TEMPLATE and key not in given}
        _check(state, keys, given, unwanted)
        changes = []
        for key, document in given.items():
            now = state.get(key)
            if now is None or _plain(now.text) != _plain(document.text):
                before, revision = (now.text, now.revision) if now is not None else (None, None)
                changes.append(Change(Key(*key), before, document.text, revision))
        changes += [Change(Key(*key), state[key].text, None, state[key].revision) for key in unwanted]
        unchanged = len(given) + len(unwanted) - len(changes)
        return Plan(tuple(changes), unchanged, _notes(state, given.values()))

    async def apply(self, plan: Plan, *, by: str, consent: Consent = UNASKED) -> None:
        """Make the changes of a plan and audit them, in one transaction; ``consent`` is used up in it.

        Raises:
            Rejected: somebody else changed one of the objects since the plan was made; nothing is changed.
            Unavailable: the database cannot be written.
        """

        def work(connection: Connection) -> None:
            consent.spend(connection)
            for change in plan.changes:
                revision = self._make(connection, change)
                details = [("change", change.what), ("revision", str(revision)), *consent.details]
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
            row = authority_rows.get(connection, name, to_change=True)
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


def _plain(text: str) -> str:
    """What a text says, whichever way its lines end; an export to the terminal ends with a line end of its own."""
    return text.replace("\r\n", "\n").rstrip("\n")


def _certificate(text: str | None) -> object:
    """Of which authority a document tells."""
    return None if text is None else parse(text).get("certificate")


def _reason(text: str) -> Reason:
    return Reason(Refusal.CONFIGURATION, text)


def _check(
    state: _State, keys: _Keys, given: Mapping[tuple[Kind, str], Document], unwanted: Mapping[tuple[Kind, str], None]
) -> None:
    if problems := _problems(state, keys, given, unwanted):
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
    state: _State, keys: _Keys, given: Mapping[tuple[Kind, str], Document], unwanted: Mapping[tuple[Kind, str], None]
) -> list[Problem]:
    """What documents name that is not there, or cannot do it, each at its line."""
    templates = {name for kind, name in (*state, *given) if kind is Kind.TEMPLATE and (kind, name) not in unwanted}
    known = {name for kind, name in state if kind is Kind.AUTHORITY}
    problems: list[Problem] = []
    for (kind, name), document in given.items():
        if kind is Kind.AUTHORITY and name not in known:
            problems.append(_no_authority(known, document, "name", name))
        elif isinstance(document.value, AuthorityDocument) and document.text != state[kind, name].text:
            settings = document.value.settings
            found = (*unknown_templates(settings, templates), *unfit_keys(settings, keys.get(name, ())))
            problems += as_problems(found, document.source, document.file, SETTINGS)
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
        if anonymous := [rule for rule in template.evidence if EvidenceKind.ANONYMOUS in rule.all]:
            what = "asks officers for" if all(rule.approval for rule in anonymous) else "gets"
            notes.append(f"template {template.name}: anonymous: whoever reaches the server {what} a certificate")
        notes += [*weaknesses(template), *unreachable(template)]
    return tuple(notes)
