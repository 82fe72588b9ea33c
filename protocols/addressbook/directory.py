"""Searching and comparing: the plan's look-ups, then the filter, within what the caller may."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable

import attrs

from pkiserver.publication.values import NamePrefix
from pkiserver.store.names import folded
from protocols.addressbook import tree
from protocols.addressbook.assertions import CertificateAssertion
from protocols.addressbook.authorities import authority_entry, pairs
from protocols.addressbook.callers import Abuse, Caller
from protocols.addressbook.entries import Entry
from protocols.addressbook.errors import LdapError, LimitHit, ResultCode
from protocols.addressbook.filters import Filter, description
from protocols.addressbook.limits import BookPolicy, LdapLimits
from protocols.addressbook.matching import equality, matches
from protocols.addressbook.messages import CompareRequest, Scope, SearchRequest
from protocols.addressbook.names import normal, parse_dn
from protocols.addressbook.pacing import Pace
from protocols.addressbook.plan import Address, Plan, people_only, plan_of
from protocols.addressbook.ports import Book, CaListing, CaSource
from protocols.addressbook.schema import descriptions_of, find_attribute
from protocols.addressbook.tree import Area, Place, Suffix, no_such_object

VERSION = "1"


@attrs.frozen
class Found:
    """What a search found: entries, the result, and how many of the entries are people."""

    entries: tuple[Entry, ...]
    code: ResultCode = ResultCode.SUCCESS
    people: int = 0
    limit: LimitHit | None = None


_PEOPLE_AREAS = {
    (Area.PEOPLE, Scope.ONE): (Area.PERSON,),
    (Area.PEOPLE, Scope.SUBTREE): (Area.PERSON,),
    (Area.CONTACTS, Scope.ONE): (Area.CONTACT,),
    (Area.CONTACTS, Scope.SUBTREE): (Area.CONTACT,),
    (Area.SUFFIX, Scope.SUBTREE): (Area.PERSON, Area.CONTACT),
    (Area.ROOT, Scope.SUBTREE): (Area.PERSON, Area.CONTACT),
}
_BOTH = (Area.PERSON, Area.CONTACT)
_CONTAINERS = (Area.PEOPLE, Area.CONTACTS, Area.AUTHORITIES)


class Directory:
    """The address book as an LDAP tree. One for all connections of a process."""

    def __init__(
        self,
        book: Book,
        authorities: CaSource,
        abuse: Abuse,
        policy: BookPolicy,
        *,
        limits: LdapLimits,
        pace: Pace,
    ) -> None:
        self._book = book
        self._authorities = authorities
        self._abuse = abuse
        self._limits = limits
        self._pace = pace
        self.suffix = Suffix.parse(policy.base)
        self._containers = tree.container_entries(self.suffix)
        self._subschema = tree.subschema_entry()
        self._contact_suffix = f",ou=Contacts,{policy.base}".encode()

    def search(self, request: SearchRequest, caller: Caller, mechanisms: tuple[str, ...]) -> Found | Awaitable[Found]:
        """What a search finds, at once where that can be; the caller was counted before.

        Raises:
            LdapError: the base is no name or not there.
        """
        place = self.suffix.place(request.base)
        areas = _PEOPLE_AREAS.get((place.area, request.scope))
        if areas is None:
            return self._elsewhere(request, place, mechanisms)
        policy = self._abuse.policy_of(caller)
        plan = plan_of(request.filter, policy.prefix)
        if plan is not None and plan.exact:
            probe = plan.probes[0]
            assert isinstance(probe, Address)
            entries = self._book.cached(probe.key)
            if entries is not None:
                return self._limited(self._within(entries, areas), request.size_limit, request.size_limit or 64)
        return self._planned(request, plan, areas, place, policy.results)

    def _within(self, entries: tuple[Entry, ...], areas: tuple[Area, ...]) -> list[Entry]:
        if areas == _BOTH:
            return list(entries)
        contacts = areas == (Area.CONTACT,)
        return [one for one in entries if one.dn.endswith(self._contact_suffix) is contacts]

    @staticmethod
    def _limited(people: list[Entry], wanted: int, most: int, others: tuple[Entry, ...] = ()) -> Found:
        room = min(wanted or most, most)
        entries = (*others, *people)
        if len(entries) <= room:
            return Found(entries, people=len(people))
        kept = entries[:room]
        return Found(kept, ResultCode.SIZE_LIMIT_EXCEEDED, people=max(0, room - len(others)))

    async def _planned(
        self, request: SearchRequest, plan: Plan | None, areas: tuple[Area, ...], place: Place, most: int
    ) -> Found:
        begun = self._pace.begin()
        if plan is None:
            await self._book.find(secrets.token_hex(12))  # the work of finding nobody
            await self._pace.nobody(begun)
            others = () if people_only(request.filter) else await self._others(request, place)
            found = self._limited([], request.size_limit, max(most, len(others)), others)
            return attrs.evolve(found, limit=LimitHit.NOT_ALLOWED)
        people = await self._look_up(plan, most + 1)
        chosen = self._within(tuple(people), areas)
        if not plan.exact:
            chosen = [one for one in chosen if matches(one, request.filter)]
        if not chosen:
            await self._pace.nobody(begun)
        others = () if plan.people_only else await self._others(request, place)
        return self._limited(chosen, request.size_limit, most + len(others), others)

    async def _look_up(self, plan: Plan, most: int) -> list[Entry]:
        """The entries that the plan's look-ups find, each once."""
        found: dict[bytes, Entry] = {}
        for probe in plan.probes:
            match probe:
                case Address(key):
                    entries = await self._book.find(key)
                case CertificateAssertion():
                    entries = await self._by_certificate(probe)
                case NamePrefix():
                    entries = ()
                    for address in await self._book.named(probe, most):
                        entries += await self._book.find(address)
            for one in entries:
                found.setdefault(one.dn, one)
        return list(found.values())

    async def _by_certificate(self, wanted: CertificateAssertion) -> tuple[Entry, ...]:
        issuers = [one for one in self._authorities.authorities() if _issuer(one) == wanted.issuer]
        number = issuers[0].issuer_id if issuers else 0
        return await self._book.by_serial(number, wanted.serial)

    # What is not people

    async def _others(self, request: SearchRequest, place: Place) -> tuple[Entry, ...]:
        """Containers and authorities in the reach of a search that match."""
        entries = await self._in_reach(place, request.scope)
        return tuple(one for one in entries if matches(one, request.filter))

    async def _in_reach(self, place: Place, scope: Scope) -> list[Entry]:
        area = place.area
        if area is Area.ROOT:
            return [self._containers[Area.SUFFIX]] if scope is Scope.ONE else await self._below_suffix()
        if area is Area.SUFFIX and scope is Scope.ONE:
            return [self._containers[one] for one in _CONTAINERS]
        if area is Area.SUFFIX:
            return await self._below_suffix()
        own = [] if scope is Scope.ONE else [self._containers[area]]
        return own + (await self._all_authorities() if area is Area.AUTHORITIES else [])

    async def _below_suffix(self) -> list[Entry]:
        return [*self._containers.values(), *await self._all_authorities()]

    async def _all_authorities(self) -> list[Entry]:
        return [await self._authority(one) for one in self._authorities.authorities()]

    async def _authority(self, listing: CaListing) -> Entry:
        lists = await self._authorities.lists(listing.name)
        crosswise = pairs(listing, self._authorities.authorities())
        return authority_entry(listing, lists, crosswise, self.suffix.text, self._limits.crl_bytes)

    def _elsewhere(self, request: SearchRequest, place: Place, mechanisms: tuple[str, ...]) -> Found | Awaitable[Found]:
        """Searches that are not over people."""
        if place.area is Area.ROOT and request.scope is Scope.BASE:
            return self._tested((tree.root_dse(self.suffix, mechanisms, VERSION),), request.filter)
        if place.area is Area.SUBSCHEMA:
            return self._tested(() if request.scope is Scope.ONE else (self._subschema,), request.filter)
        return self._one_or_container(request, place)

    async def _one_or_container(self, request: SearchRequest, place: Place) -> Found:
        if place.area in {Area.PERSON, Area.CONTACT, Area.AUTHORITY}:
            entry = await self.entry(place)
            people = 0 if place.area is Area.AUTHORITY else 1
            return self._tested(() if request.scope is Scope.ONE else (entry,), request.filter, people)
        if request.scope is Scope.BASE:
            return self._tested((self._containers[place.area],), request.filter)
        others = await self._others(request, place)
        return self._limited([], request.size_limit, len(others), others)

    @staticmethod
    def _tested(entries: tuple[Entry, ...], wanted: Filter, people: int = 0) -> Found:
        found = tuple(one for one in entries if matches(one, wanted))
        return Found(found, people=people * len(found))

    async def entry(self, place: Place) -> Entry:
        """The entry at a place, named as it was asked for is not told: it has its own name.

        Raises:
            LdapError: NO_SUCH_OBJECT.
        """
        match place.area:
            case Area.PERSON | Area.CONTACT:
                begun = self._pace.begin()
                found = self._within(await self._book.find(place.key), (place.area,))
                if found:
                    return found[0]
                await self._pace.nobody(begun)
            case Area.AUTHORITY:
                for one in self._authorities.authorities():
                    if folded(one.name) == place.key:
                        return await self._authority(one)
            case Area.SUBSCHEMA:
                return self._subschema
            case area if area in self._containers:
                return self._containers[area]
        raise no_such_object()

    async def compare(self, request: CompareRequest) -> bool:
        """Whether an entry has a value (RFC 4511 section 4.10).

        Raises:
            LdapError: there is no such entry or attribute, or the value cannot be compared.
        """
        place = self.suffix.place(request.entry)
        entry = await self.entry(place)
        name = description(request.attribute)
        kind = find_attribute(name)
        if kind is None:
            raise LdapError(ResultCode.UNDEFINED_ATTRIBUTE_TYPE)
        values = [value for one in descriptions_of(name) for value in entry.values(one)]
        if not values:
            raise LdapError(ResultCode.NO_SUCH_ATTRIBUTE)
        test = equality(kind, request.value)
        if test is None:
            raise LdapError(ResultCode.INAPPROPRIATE_MATCHING)
        return any(test(value) for value in values)


def _issuer(listing: CaListing) -> object:
    try:
        return normal(parse_dn(listing.subject.encode()))
    except LdapError:
        return None
