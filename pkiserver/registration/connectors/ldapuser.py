"""Find a user in a directory: the entry, its groups (of groups), its attributes."""

from __future__ import annotations

import attrs

from pkiserver.outbound import ldapnames
from pkiserver.outbound.ldap import SIZE_LIMIT, LdapConnection, LdapError
from pkiserver.outbound.ldapfilter import Filter, Kind, filled
from pkiserver.outbound.ldapwire import Entry, Scope
from pkiserver.outbound.placeholders import Place
from pkiserver.registration.connectors.ldapsettings import LdapSettings
from pkiserver.registration.connectors.mapping import mapped
from pkiserver.registration.connectors.names import spelled
from pkiserver.registration.connectors.values import Denied, Shown, Step

MAX_DEPTH = 10
MAX_GROUPS = 2000
"""Groups of one user: more than Active Directory lets anybody have who is to log on (1,015)."""
EXPIRY = "msDS-UserPasswordExpiryTimeComputed"
SID, PRIMARY_GROUP = "objectSid", "primaryGroupID"
_TOO_MANY = Denied(
    Step.GROUP, f"the user is in more than {MAX_GROUPS} groups: narrow filter and base of the groups", proved=True
)
_ANYTHING = Filter(Kind.PRESENT, name="objectClass")


@attrs.frozen
class User:
    """A user's entry and the DNs of the groups that have it."""

    entry: Entry
    groups: tuple[str, ...] = ()


def wanted(settings: LdapSettings) -> tuple[str, ...]:
    """The attributes to ask for."""
    names = [one.source for one in settings.attributes if one.source != "dn"]
    names += _naming(settings.user_filter.tree)
    if settings.groups.base is None:
        names.append(settings.groups.attribute)
    if settings.active_directory:
        names += [EXPIRY, SID, PRIMARY_GROUP]
    return tuple(dict.fromkeys(names))


def _naming(tree: Filter) -> tuple[str, ...]:
    """The attributes that a filter compares with the name, the whole of it."""
    if tree.kind is Kind.EQUAL and tree.values == ((Place("userid"),),):
        return (tree.name,)
    # what is not to be equal names nobody
    return () if tree.kind is Kind.NOT else tuple(name for one in tree.inner for name in _naming(one))


async def find(connection: LdapConnection, settings: LdapSettings, userid: str) -> User | Denied:
    """The one entry for a name, with its groups; raises as :meth:`LdapConnection.search`."""
    entry = await find_entry(connection, settings, userid)
    return entry if isinstance(entry, Denied) else await with_groups(connection, settings, entry, userid)


async def find_entry(connection: LdapConnection, settings: LdapSettings, userid: str) -> Entry | Denied:
    """The one entry for a name; raises as :meth:`LdapConnection.search`."""
    tree = filled(settings.user_filter.tree, {"userid": userid, "dn": ""})
    try:
        entries = await connection.search(settings.base, Scope.TREE, tree, wanted(settings), limit=2, must_exist=True)
    except LdapError as error:
        if error.code != SIZE_LIMIT:
            raise
        entries = (Entry(""), Entry(""))
    if not entries:
        return Denied(Step.USER, f"no entry below {settings.base!r} matches {settings.user_filter}")
    if len(entries) > 1:
        return Denied(Step.USER, f"more than one entry below {settings.base!r} matches {settings.user_filter}")
    return entries[0]


async def with_groups(connection: LdapConnection, settings: LdapSettings, entry: Entry, userid: str) -> User | Denied:
    """An entry and its groups; raises as :meth:`LdapConnection.search`."""
    groups = await groups_of(connection, settings, entry, userid)
    return groups if isinstance(groups, Denied) else User(entry, groups)


def searches_groups(settings: LdapSettings) -> bool:
    """Whether the entry alone does not say which groups it is in."""
    return settings.groups.base is not None or settings.active_directory


async def groups_of(
    connection: LdapConnection, settings: LdapSettings, entry: Entry, userid: str
) -> tuple[str, ...] | Denied:
    """The DNs of the groups of an entry; through groups of groups where nested.

    Active Directory's primary group has no ``member`` for its users and is not in their ``memberOf``: it is added.
    """
    rules = settings.groups
    primary = await _primary_group(connection, entry) if settings.active_directory else ()
    if rules.base is None:
        named = (*primary, *entry.texts(rules.attribute))
        return named if len(named) <= MAX_GROUPS else _TOO_MANY
    found = {dn.lower(): dn for dn in primary if ldapnames.within(dn, rules.base)}
    edge = [entry.dn, *primary]
    for _ in range(MAX_DEPTH if rules.nested else 1):
        above: list[str] = []
        for dn in edge:
            tree = filled(rules.filter.tree, {"dn": dn, "userid": userid})
            groups = await _listed(connection, rules.base, tree)
            if isinstance(groups, Denied):
                return groups
            for group in groups:
                if group.lower() not in found:
                    found[group.lower()] = group
                    above.append(group)
            if len(found) > MAX_GROUPS:
                return _TOO_MANY
        edge = above
        if not edge:
            break
    return tuple(found.values())


async def _listed(connection: LdapConnection, base: str, tree: Filter) -> list[str] | Denied:
    """The DNs of the groups that a filter finds, in pages: many servers give no more than so many at once."""
    found: list[str] = []
    try:
        pages = connection.search_pages(base, Scope.TREE, tree, (), at_once=MAX_GROUPS, must_exist=True)
        async for page in pages:
            found += (group.dn for group in page)
            if len(found) > MAX_GROUPS:
                return _TOO_MANY
    except LdapError as error:
        if error.code != SIZE_LIMIT:
            raise
        text = "the user is in more groups than the directory lists to this connector: raise the size limit of the "
        return Denied(Step.GROUP, f"{text}account that searches, or narrow filter and base", proved=True)
    return found


async def _primary_group(connection: LdapConnection, entry: Entry) -> tuple[str, ...]:
    """The DN of the group that ``primaryGroupID`` names: a RID in the domain of the user's SID ([MS-DTYP] 2.4.2)."""
    sid, rid = next(iter(entry.values(SID)), b""), next(iter(entry.texts(PRIMARY_GROUP)), "")
    # revision, number of parts, authority in 6 octets, parts of 4 octets of which the last is the user's own
    if len(sid) < 12 or len(sid) != 8 + 4 * sid[1] or not rid.isdecimal() or int(rid) >= 2**32:
        return ()
    group = sid[:-4] + int(rid).to_bytes(4, "little")
    # [MS-ADTS] 3.1.1.3.1.2.4: a SID in hexadecimal digits is a name for its object, in a Global Catalog too
    found = await connection.search(f"<SID={group.hex()}>", Scope.BASE, _ANYTHING, (), limit=1)
    return tuple(one.dn for one in found)


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
    own = (value for name in _naming(settings.user_filter.tree) for value in entry.texts(name))
    return Shown(spelled(userid, own), groups, attributes, notes)
