"""The address book, put together: the engine's publication behind the protocol's service."""

from __future__ import annotations

import ipaddress

import attrs
from sqlalchemy import Connection
from twisted.internet import reactor as _reactor
from twisted.internet.interfaces import IReactorTime

from pkiserver.authority.distribution import scope_path
from pkiserver.authority.model import Authority
from pkiserver.authority.requests import ClientCertificateEvidence, Evidence, PasswordEvidence
from pkiserver.authority.templates.library import load_template
from pkiserver.authority.templates.model import EvidenceKind, EvidenceRule, Template
from pkiserver.foundation.errors import Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.publication.book import AddressBook
from pkiserver.publication.contacts import ContactWriter
from pkiserver.publication.values import Person
from pkiserver.runtime.config import LdapSettings
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.ldapsettings import CallerSettings
from pkiserver.runtime.services.jobs import Job
from pkiserver.store.authority import crls
from pkiserver.store.authority.authorities import GenerationState
from pkiserver.store.authority.crls import Covers, CrlKind
from pkiserver.store.publication import addressbook as rows
from protocols.addressbook import web
from protocols.addressbook.callers import Abuse
from protocols.addressbook.directory import Directory
from protocols.addressbook.entries import Entry, person_entry
from protocols.addressbook.limits import BookPolicy, CallerPolicy, LdapLimits
from protocols.addressbook.metrics import LdapMetrics
from protocols.addressbook.pacing import Pace
from protocols.addressbook.ports import LONGEST_LIST, Account, CaList, CaListing, ContactDraft, ListKind
from protocols.addressbook.service import Service
from protocols.web.values import Route

_PROTOCOL = "ldap"
_FRESH_SECONDS = 0.5
"""For how long the lists of an authority are shown without asking for newer ones."""
_PRUNED_AT_ONCE = 10_000
"""Changes that one write forgets: all others wait until it ends."""
_LOGIN = """
name = "addressbook"
issuer = "none"
keys = ["ec-p256"]
enabled = false
validity.duration = "1d"
[[subject.parts]]
attribute = "common_name"
from = "fixed"
value = "nobody"
required = true
"""


@attrs.frozen
class EngineLogin:
    """Implements :class:`protocols.addressbook.ports.Login` by the gate's connectors."""

    engine: Engine
    rules: Template

    async def password(self, name: str, password: Secret) -> Account | None:
        """Whom a name and password show."""
        return await self._identify(PasswordEvidence(name, password), EvidenceKind.PASSWORD)

    async def certificate(self, der: bytes) -> Account | None:
        """Whom a client certificate shows."""
        return await self._identify(ClientCertificateEvidence(der, ()), EvidenceKind.CLIENT_CERTIFICATE)

    async def _identify(self, evidence: Evidence, kind: EvidenceKind) -> Account | None:
        findings = await self.engine.gate.identifier.identify(self.rules, _PROTOCOL, (evidence,))
        found = findings.of(kind, self.rules.evidence[0].accepted_from)
        if found is None and findings.away:
            raise Unavailable(findings.away[0].text)
        return None if found is None or found.retry_after else Account(found.name, found.groups)


def login_rules(connectors: tuple[str, ...]) -> Template:
    """Who vouches for people at a bind, in the form in which the gate's identifier is asked. It issues nothing."""
    template = load_template(_LOGIN, "address book")
    kinds = (EvidenceKind.PASSWORD, EvidenceKind.CLIENT_CERTIFICATE)
    return attrs.evolve(template, evidence=tuple(EvidenceRule(all=(one,), connectors=connectors) for one in kinds))


class EngineAuthorities:
    """Implements :class:`protocols.addressbook.ports.CaSource`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lists: dict[str, tuple[float, tuple[CaList, ...]]] = {}

    def authorities(self) -> tuple[CaListing, ...]:
        """All that have a certificate."""
        return tuple(found for one in self._engine.authorities.list() if (found := self._listing(one)) is not None)

    def _listing(self, authority: Authority) -> CaListing | None:
        try:
            current = authority.current
        except Rejected:
            return None
        serving = [one for one in authority.generations if one.ca and one.state is not GenerationState.RETIRED]
        ordered = sorted(serving, key=lambda one: (one.id != current.id, -one.number))
        certificates: list[bytes] = []
        for one in ordered:
            links = (one.new_with_old, one.old_with_new)
            certificates += [one.certificate.der, *(link for link in links if link)]
        return CaListing(
            name=authority.name,
            subject=authority.subject.rfc4514_string(),
            subject_der=authority.subject_der,
            issuer_id=authority.issuer_id,
            certificates=tuple(dict.fromkeys(certificates)),
        )

    async def crl(self, path: str) -> bytes | None:
        """The newest complete list of a distribution point."""
        found = await self._engine.status.publications.crl(path)
        return None if found is None else found.der

    async def lists(self, name: str) -> tuple[CaList, ...]:
        """The newest lists that stand for all of an authority, not for a shard or a template of it."""
        now = self._engine.clock.monotonic()
        known = self._lists.get(name)
        if known is None or now - known[0] >= _FRESH_SECONDS:
            known = self._lists[name] = (now, await self._read_lists(name))
        return known[1]

    async def _read_lists(self, name: str) -> tuple[CaList, ...]:
        authority = self._engine.authorities.get(name)
        ordered = sorted(authority.generations, key=lambda one: -one.number)
        numbers = [one.id for one in ordered if one.state is not GenerationState.RETIRED]
        generations = {one.id: one for one in ordered}
        scopes = await self._engine.database.read(
            lambda connection: [scope for number in numbers for scope in crls.scopes_of(connection, number)]
        )
        found = []
        for scope in scopes:
            if scope.cover.shard is not None or scope.cover.template is not None:
                continue
            generation = generations[scope.generation_id]
            path, key = scope_path(generation.crl_path, scope.scope), generation.certificate.key_identifier
            whole = ListKind.AUTHORITIES if scope.cover.covers is Covers.AUTHORITIES else ListKind.COMPLETE
            for kind, shown in ((CrlKind.COMPLETE, whole), (CrlKind.DELTA, ListKind.DELTA)):
                newest = await self._engine.status.publications.crl(path, kind)
                if newest is not None:
                    der = newest.der if len(newest.der) <= LONGEST_LIST else None
                    found.append(CaList(shown, path, key, newest.this_update, der))
        return tuple(found)


@attrs.frozen
class EngineContacts:
    """Implements :class:`protocols.addressbook.ports.Contacts`."""

    writer: ContactWriter

    async def put(self, draft: ContactDraft, *, replace: bool, by: str) -> None:
        """Keep a contact."""
        await self.writer.put(draft.address, draft.attributes, draft.certificates, replace=replace, by=by)

    async def delete(self, address: str, *, by: str) -> None:
        """Remove one."""
        await self.writer.delete(address, by=by)


def _caller(settings: CallerSettings) -> CallerPolicy:
    return CallerPolicy(settings.results, settings.prefix, settings.searches_per_minute, settings.results_per_hour)


def book_policy(settings: LdapSettings) -> BookPolicy:
    """The protocol's policy."""
    return BookPolicy(
        base=settings.base,
        anonymous=_caller(settings.anonymous),
        bound=_caller(settings.bound),
        trusted=tuple(ipaddress.ip_network(one) for one in settings.trusted),
        writers=frozenset(settings.writers),
    )


def ldap_limits(settings: LdapSettings) -> LdapLimits:
    """The protocol's limits."""
    limits = settings.limits
    return LdapLimits(
        message_bytes=limits.message_bytes,
        bound_message_bytes=limits.bound_message_bytes,
        connections=limits.connections,
        connections_per_address=limits.connections_per_address,
        operations=limits.operations,
        message_seconds=limits.message.total_seconds(),
        idle_seconds=limits.idle.total_seconds(),
        lifetime_seconds=limits.lifetime.total_seconds(),
        operation_seconds=limits.operation.total_seconds(),
        write_stall_seconds=limits.write_stall.total_seconds(),
    )


class AddressBookService:
    """The address book of one process.

    Raises:
        ValueError: the base is no distinguished name that can be served.
    """

    def __init__(self, engine: Engine, settings: LdapSettings) -> None:
        self._engine = engine
        policy, limits = book_policy(settings), ldap_limits(settings)
        base = settings.base

        def render(person: Person) -> Entry:
            return person_entry(person, base)

        self.book: AddressBook[Entry] = AddressBook(
            engine.database, engine.templates, engine.clock, render=render, cache_bytes=settings.cache_bytes
        )
        self.book.refresh()
        self.metrics = LdapMetrics(lambda: self.book.counts)
        abuse = Abuse(policy)
        authorities = EngineAuthorities(engine)
        writer = ContactWriter(engine.database, engine.audit, engine.clock)
        pace = Pace(IReactorTime(_reactor), engine.clock, limits.nobody_seconds)
        self.web = web.WebLookup(self.book, authorities, abuse, self.metrics, pace)
        self.service = Service(
            Directory(self.book, authorities, abuse, policy, limits=limits, pace=pace),
            EngineLogin(engine, login_rules(settings.connectors)),
            EngineContacts(writer),
            abuse=abuse,
            policy=policy,
            limits=limits,
            metrics=self.metrics,
            clock=engine.clock,
        )

    def routes(self) -> tuple[Route, ...]:
        """The look-ups over HTTP."""
        return tuple(web.routes(self.web))

    def jobs(self) -> tuple[Job, ...]:
        """What keeps the cache true, and the feed short."""
        return (
            Job("addressbook-feed", 0.1, self.book.poll),
            Job("addressbook-rules", 1.0, self._refresh),
            Job("addressbook-upkeep", 3600.0, self._prune),
        )

    async def _refresh(self) -> None:
        self.book.refresh()

    async def _prune(self) -> None:
        def prune(connection: Connection) -> int:
            return rows.prune_changes(connection, most=_PRUNED_AT_ONCE)

        while await self._engine.database.write(prune) >= _PRUNED_AT_ONCE:
            pass
