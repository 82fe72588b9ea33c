"""Configuration objects that were edited behind our back: what the database has beside what the audit log says.

Whoever adds, changes or removes an object by a command or a call leaves an event with the SHA-256 of its text in the
audit log, in the same transaction; whoever edits rows in SQL does not. So do the settings of authorities, whose other
events (a certificate, a new key) say nothing of them.
"""

from __future__ import annotations

import hashlib

import attrs
from sqlalchemy import Connection

from pkiserver.audit.export import details_of
from pkiserver.store import audit as audit_rows
from pkiserver.store.authority import authorities as authority_rows
from pkiserver.store.authority import templates as object_rows

DIGEST = "fingerprint"
"""The detail of an event that has the digest."""
_REMOVALS = frozenset({"remove", "removed"})
_AUTHORITY = "authority "


def digest(text: str) -> str:
    """What an event says of an object's text."""
    return hashlib.sha256(text.encode()).hexdigest()


@attrs.frozen
class Alteration:
    """An object that is not as it was last made. ``certain`` False: an early event had no digest to compare with."""

    object: str
    text: str
    certain: bool = True


@attrs.frozen
class _Said:
    removed: bool
    digest: str | None
    actor: str


def alterations(connection: Connection) -> tuple[Alteration, ...]:
    """Everything in the configuration that is not what the audit log says; reads all its events of configuration."""
    said = _said(connection)
    kinds = object_rows.list_kinds(connection)
    stored = {f"{kind} {one.name}": one.toml for kind in kinds for one in object_rows.list_all(connection, kind=kind)}
    stored |= {f"{_AUTHORITY}{one.name}": one.config for one in authority_rows.list_all(connection)}
    found = []
    for name, text in stored.items():
        alteration = _compare(name, text, said.get(name))
        found += [alteration] if alteration is not None else []
    found += [
        Alteration(name, f"is gone, and nobody removed it (last made by {last.actor})")
        for name, last in said.items()
        if last.digest is not None and not last.removed and name not in stored
    ]
    return tuple(sorted(found, key=lambda one: one.object))


def _said(connection: Connection) -> dict[str, _Said]:
    """The last word of the audit log on each object."""
    said: dict[str, _Said] = {}
    for row in audit_rows.events_of_settings(connection, "configuration"):
        details = details_of(row)
        told = details.get(DIGEST)
        if told is None and row.object.startswith(_AUTHORITY) and row.object in said:
            continue  # about its keys and certificates, not its settings
        said[row.object] = _Said(details.get("change") in _REMOVALS, told, row.actor)
    return said


def _compare(name: str, text: str, last: _Said | None) -> Alteration | None:
    if last is None or last.removed:
        return Alteration(name, "is in the database, and nobody applied it")
    if last.digest is None:
        return Alteration(name, "was applied before digests were kept", certain=False)
    if last.digest != digest(text):
        return Alteration(name, f"is not what {last.actor} made of it: it was edited in the database")
    return None
