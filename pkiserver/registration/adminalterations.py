"""Administrators that were made or changed behind our back: what the database has beside what the audit log says.

Marks on votes (:mod:`pkiserver.registration.votes`) stop whoever writes votes into the database; not whoever writes an
administrator there and then votes as that one. Such an administrator is in no audit event.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from sqlalchemy import Connection

from pkiserver.audit.export import details_of
from pkiserver.authority.tampering import Alteration
from pkiserver.store import audit as audit_rows
from pkiserver.store.registration import administrators as rows
from pkiserver.store.registration.administrators import AdministratorRow

DIGEST = "digest"
"""The detail of an event that has the digest of the administrator as the event left it."""
DELETED = "deleted"
_OBJECT = "administrator "


def standing_digest(row: AdministratorRow, fingerprints: Iterable[bytes]) -> str:
    """SHA-256, in hex, over all that decides what an administrator may do.

    Args:
        row: Roles, scope, groups, account, and whether disabled.
        fingerprints: SHA-256 of the certificates that show the administrator, in any order.
    """
    parts = [
        sorted(row.roles),
        sorted(row.authorities),
        sorted(row.templates),
        sorted(row.groups),
        row.account,
        row.disabled,
        sorted(one.hex() for one in fingerprints),
    ]
    return hashlib.sha256(json.dumps([row.name, *parts], ensure_ascii=True).encode()).hexdigest()


def administrator_alterations(connection: Connection) -> tuple[Alteration, ...]:
    """Every administrator who is not what the audit log says; reads all its events about accounts."""
    said: dict[str, tuple[str | None, str]] = {}
    for event in audit_rows.events_of_settings(connection, "account"):
        if not event.object.startswith(_OBJECT):
            continue
        details = details_of(event)
        if details.get("change") == DELETED:
            said.pop(event.object, None)
        else:
            said[event.object] = (details.get(DIGEST), event.actor)
    found = []
    for row in _all(connection):
        known_by = (one.fingerprint for one in rows.certificates_of(connection, row.name))
        name = f"{_OBJECT}{row.name}"
        if name not in said:
            found.append(Alteration(name, "is in the database, and nobody made this administrator"))
            continue
        told, actor = said[name]
        if told is None:
            found.append(Alteration(name, "was made before digests were kept", certain=False))
        elif told != standing_digest(row, known_by):
            found.append(Alteration(name, f"is not what {actor} made of it: it was edited in the database"))
    return tuple(found)


def _all(connection: Connection) -> Iterable[AdministratorRow]:
    after = ""
    while page := rows.list_page(connection, after=after):
        yield from page
        after = page[-1].name
