"""Find a user in a directory: the entry, its groups (of groups), its attributes."""

from __future__ import annotations

import attrs

from pkiserver.outbound import ldapnames
from pkiserver.outbound.ldap import SIZE_LIMIT, LdapConnection, LdapError
from pkiserver.outbound.ldapfilter import filled
from pkiserver.outbound.ldapwire import Entry, Scope
from pkiserver.registration.connectors.ldapsettings import LdapSettings
from pkiserver.registration.connectors.mapping import mapped
from pkiserver.registration.connectors.values import Denied, Shown, Step

MAX_DEPTH = 10
MAX_GROUPS = 500
EXPIRY = "msDS-UserPasswordExpiryTimeComputed"


@attrs.frozen
class User:
    """A user's entry and the DNs of the groups that have it."""

    entry: Entry
    groups: tuple[str, ...] = ()


def wanted(settings: LdapSettings) -> tuple[str, ...]:
    """The attributes to ask for."""
    names = [one.source for one in settings.attributes if one.source != "dn"]
    if settings.groups.base is None:
        names.append(settings.groups.attribute)
    if settings.active_directory:
        names.append(EXPIRY)
    return tuple(dict.fromkeys(names))


async def find(connection: LdapConnection, settings: LdapSettings, userid: str) -> User | Denied:
    """The one entry for a name, with its groups; raises as :meth:`LdapConnection.search`."""
    tree = filled(settings.user_filter.tree, {"userid": userid, "dn": ""})
    try:
        entries = await connection.search(settings.base, Scope.TREE, tree, wanted(settings), limit=2)
    except LdapError as error:
        if error.code != SIZE_LIMIT:
            raise
        entries = (Entry(""), Entry(""))
    if not entries:
        return Denied(Step.USER, f"no entry below {settings.base!r} matches {settings.user_filter}")
    if len(entries) > 1:
        return Denied(Step.USER, f"more than one entry below {settings.base!r} matches {settings.user_filter}")
    return User(entries[0], await groups_of(connection, settings, entries[0], userid))


async def groups_of(connection: LdapConnection, settings: LdapSettings, entry: Entry, userid: str) -> tuple[str, ...]:
    """The DNs of the groups of an entry; through groups of groups where nested."""
    rules = settings.groups
    if rules.base is None:
        return entry.texts(rules.attribute)[:MAX_GROUPS]
    found: dict[str, str] = {}
    edge = [entry.dn]
    for _ in range(MAX_DEPTH if rules.nested else 1):
        above: list[str] = []
        for dn in edge:
            tree = filled(rules.filter.tree, {"dn": dn, "userid": userid})
            for group in await connection.search(rules.base, Scope.TREE, tree, (), limit=MAX_GROUPS):
                key = group.dn.lower()
                if key not in found and len(found) < MAX_GROUPS:
                    found[key] = group.dn
                    above.append(group.dn)
        edge = above
        if not edge:
            break
    return tuple(found.values())


def shown(settings: LdapSettings, userid: str, user: User, notes: tuple[str, ...] = ()) -> Shown | Denied:
    """The user as a registration sees them, or what is missing: a required group, a required attribute."""
    required = settings.groups.required
    if required and not any(ldapnames.same(have, want) for have in user.groups for want in required):
        return Denied(Step.GROUP, f"the user is in none of the required groups: {'; '.join(required)}", proved=True)
    entry = user.entry
    attributes = mapped(settings.attributes, lambda name: (entry.dn,) if name == "dn" else entry.texts(name))
    if isinstance(attributes, Denied):
        return attributes
    groups = frozenset(name for dn in user.groups if (name := ldapnames.first_value(dn)))
    return Shown(userid, groups, attributes, notes)
