"""One entry of a directory elsewhere: found by mail address, compared with what it should hold, made so."""

from __future__ import annotations

import attrs

from pkiserver.authority.templates.library import TemplateLibrary
from pkiserver.foundation.clock import Clock
from pkiserver.outbound.ldap import ATTRIBUTE_EXISTS, NO_SUCH_ATTRIBUTE, SIZE_LIMIT, LdapConnection, LdapError
from pkiserver.outbound.ldapattributes import bare, with_option
from pkiserver.outbound.ldapwire import Change, ChangeKind, Entry, Scope
from pkiserver.publication.outward.settings import Directory
from pkiserver.publication.outward.wanted import Wanted, read_wanted, rules_for
from pkiserver.store.database import Database
from pkiserver.store.publication.addressbook import address_key

NO_ENTRY = "no entry has this address"
SEVERAL = "several entries have this address"
_PROXY = "smtp:"


@attrs.frozen
class Comparison:
    """How the entry of an address stands. ``problem``: why there is no one entry, although one is needed."""

    address: str
    dn: str = ""
    wanted: Wanted = attrs.field(factory=Wanted)
    missing: tuple[bytes, ...] = ()
    missing_smime: tuple[bytes, ...] = ()
    foreign_smime: tuple[bytes, ...] = ()
    problem: str | None = None

    @property
    def differs(self) -> bool:
        """Whether something is to be done, by us or by the directory's administrator."""
        surplus = self.wanted.surplus or self.wanted.smime_surplus
        return bool(self.problem or self.missing or self.missing_smime or surplus)


@attrs.frozen
class Entries:
    """The entries of a directory, over a connection that may write."""

    connection: LdapConnection
    directory: Directory
    database: Database
    templates: TemplateLibrary
    clock: Clock

    @property
    def attributes(self) -> tuple[str, ...]:
        """What is read of an entry."""
        more = (self.directory.smime_attribute,) if self.directory.smime_attribute else ()
        return (*self.directory.mail_attributes, self.directory.user_certificate, *more)

    async def compare(self, address: str) -> Comparison:
        """The entry of an address key against the store.

        Raises:
            LdapError: the directory refuses the search.
            OutboundError: it cannot be talked to any more.
            Unavailable: the database is away.
        """
        try:
            found = await self.connection.search(
                self.directory.base, Scope.TREE, self.directory.filter.of(address), self.attributes, limit=2
            )
        except LdapError as error:
            if error.code != SIZE_LIMIT:
                raise
            return Comparison(address, problem=SEVERAL)
        if len(found) == 1:
            return await self.compare_entry(found[0], address)
        wanted = await self._wanted((address,), (), ())
        if not found:
            return Comparison(address, wanted=wanted, problem=NO_ENTRY if wanted.certificates else None)
        return Comparison(address, wanted=wanted, problem=SEVERAL)

    async def compare_entry(self, entry: Entry, address: str | None = None) -> Comparison:
        """An entry against the store, under all of its addresses; raises as :meth:`compare`."""
        addresses = [address] if address is not None else []
        addresses += [
            address_key(text[len(_PROXY) :] if text.lower().startswith(_PROXY) else text)
            for name in self.directory.mail_attributes
            for text in entry.texts(name)
        ]
        held = _values(entry, self.directory.user_certificate)
        smime = self.directory.smime_attribute
        held_smime = _values(entry, smime) if smime else ()
        wanted = await self._wanted(tuple(addresses), held, held_smime)
        kept_smime = tuple(one for one in held_smime if one not in wanted.smime_surplus)
        return Comparison(
            address=addresses[0] if addresses else "",
            dn=entry.dn,
            wanted=wanted,
            missing=tuple(one for one in wanted.certificates if one not in held),
            missing_smime=tuple(one for one in wanted.smime if one not in held_smime) if smime else (),
            foreign_smime=tuple(one for one in kept_smime if one not in wanted.smime),
        )

    async def mend(self, found: Comparison) -> None:
        """Make an entry hold what it should, in one operation: all of it or nothing.

        Raises:
            LdapError: the directory refuses; NO_SUCH_ATTRIBUTE or ATTRIBUTE_EXISTS where somebody else changed it.
            OutboundError: it cannot be talked to any more.
        """
        attribute, smime = self.directory.user_certificate, self.directory.smime_attribute
        changes = []
        if found.wanted.surplus:
            changes.append(Change(ChangeKind.DELETE, attribute, found.wanted.surplus))
        if found.missing:
            changes.append(Change(ChangeKind.ADD, attribute, found.missing))
        if smime and (found.missing_smime or found.wanted.smime_surplus):
            # inetOrgPerson gives this attribute no equality rule: a single value cannot be named, only all be replaced.
            changes.append(Change(ChangeKind.REPLACE, smime, (*found.foreign_smime, *found.wanted.smime)))
        if changes:
            await self.connection.modify(found.dn, tuple(changes))

    async def settle(self, address: str) -> Comparison:
        """Compare and mend, once more where somebody else wrote in between; raises as both."""
        found = await self.compare(address)
        try:
            await self.mend(found)
        except LdapError as error:
            if error.code not in {ATTRIBUTE_EXISTS, NO_SUCH_ATTRIBUTE}:
                raise
            found = await self.compare(address)
            await self.mend(found)
        return found

    async def _wanted(
        self, addresses: tuple[str, ...], held: tuple[bytes, ...], held_smime: tuple[bytes, ...]
    ) -> Wanted:
        rules, now = rules_for(self.templates, self.directory.templates), self.clock.now()
        return await self.database.read(
            lambda connection: read_wanted(connection, addresses, held, held_smime, rules=rules, now=now)
        )


def _values(entry: Entry, attribute: str) -> tuple[bytes, ...]:
    """The values of an attribute, which some servers call without ``;binary`` and some with."""
    return tuple(dict.fromkeys((*entry.values(bare(attribute)), *entry.values(with_option(attribute)))))
