"""Whether whoever asks or votes may: looked at in the transaction that counts it, however they came.

A vote is worth what its voter is when it is counted. An administrator who was removed, switched off, or lost role,
scope or group between vote and decision has agreed to nothing.
"""

from __future__ import annotations

import tomllib
from datetime import datetime

import attrs
from sqlalchemy import Connection

from pkiserver.foundation.clock import CLOCKS_APART
from pkiserver.foundation.tomlfile import parse
from pkiserver.registration.administrators import Administrator, Permission, administrator_of
from pkiserver.store.authority import templates
from pkiserver.store.registration import administrators as rows

ADMIN = "admin:"


@attrs.frozen
class Needed:
    """What somebody has to be.

    Attributes:
        permission: Which a role must give.
        template: Which must be in their scope, with the authority that issues for it.
        authorities: Which must be in their scope too.
        whole: Nobody with a scope will do.
        groups: Of which they must be in one; empty: in none.
    """

    permission: Permission
    template: str | None = None
    authorities: frozenset[str] = frozenset()
    whole: bool = False
    groups: tuple[str, ...] = ()

    def reason_against(self, connection: Connection, actor: str, at: datetime) -> str | None:
        """Why what an actor did at a time was not theirs to do, as things are now; None where it was.

        An administrator who was made after that has only the name of whoever did it. Only administrators are looked at:
        who has the machine's command line needs no role.
        """
        if not actor.startswith(ADMIN):
            return None
        row = rows.get(connection, actor.removeprefix(ADMIN))
        if row is None or row.disabled:
            return f"{actor} is no administrator any more"
        if row.created > at + CLOCKS_APART:
            return f"{actor} is another administrator by now"
        who = administrator_of(row)
        if not who.may(self.permission):
            return f"{', '.join(sorted(who.roles))} does not permit {self.permission}"
        if self.groups and not who.groups.intersection(self.groups):
            return f"only members of {', '.join(self.groups)} decide this"
        return self._outside(connection, who)

    def _outside(self, connection: Connection, who: Administrator) -> str | None:
        """What of it is not in somebody's scope."""
        if self.whole and who.scoped:
            return f"it concerns all authorities and templates, and {who.name} manages only some"
        if self.template is not None and not who.covers(template=self.template):
            return f"template {self.template} is not {who.name}'s to manage"
        wanted = set(self.authorities)
        if self.template is not None and (issuer := issuer_in_force(connection, self.template)) is not None:
            wanted.add(issuer)
        if self.template is None and wanted and who.templates:
            return f"authority {', '.join(sorted(wanted))} is not {who.name}'s to manage"
        foreign = sorted(name for name in wanted if not who.covers(authority=name))
        return f"authority {', '.join(foreign)} is not {who.name}'s to manage" if foreign else None


def issuer_in_force(connection: Connection, template: str) -> str | None:
    """The authority that a template of the database names; None where it is not there."""
    found = templates.get(connection, template)
    return None if found is None else issuer_named(found.toml)


def issuer_named(toml: str) -> str | None:
    """The authority that a template's text names, if it can be read."""
    try:
        issuer = parse(toml).get("issuer")
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    return issuer if isinstance(issuer, str) else None


def with_account(connection: Connection, actor: str) -> frozenset[str]:
    """An actor's name, and for an administrator their own account's."""
    row = rows.get(connection, actor.removeprefix(ADMIN)) if actor.startswith(ADMIN) else None
    return frozenset({actor} if row is None or row.account is None else {actor, row.account})
