"""The authorities of this server, read from the database and kept as values; who may sign what, and whose chain."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes
from sqlalchemy import Connection

from pkiserver.authority.distribution import Distribution, DistributionPoint
from pkiserver.authority.model import Authority, CaCertificate, Duty, Generation
from pkiserver.authority.settings import AuthoritySettings
from pkiserver.authority.templates.build import IssuerView
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.tomlfile import load
from pkiserver.keys.algorithms import SignatureScheme, load_spki
from pkiserver.store.authority import authorities as rows
from pkiserver.store.authority.authorities import GenerationState
from pkiserver.store.authority.crls import FULL_SCOPE
from pkiserver.store.database import Database

MAXIMUM_CHAIN = 8


@attrs.frozen
class Issuing:
    """An issuer at work: everything that a certificate takes from it, and the key that will sign.

    ``name_der`` is the issuer's DN octet for octet; ``certificate`` is None only while a root signs itself for the
    first time. ``chain`` is DER, the issuer's own certificate first.
    """

    authority: str
    issuer_id: int
    generation_id: int
    key_name: str
    scheme: SignatureScheme
    name: x509.Name
    name_der: bytes = attrs.field(repr=False)
    public_key: CertificateIssuerPublicKeyTypes
    certificate: bytes | None = attrs.field(repr=False)
    chain: tuple[bytes, ...] = attrs.field(repr=False)


@attrs.frozen
class AuthorityProblem:
    """Why an authority cannot do a duty of its own, for readiness and ``doctor``."""

    authority: str
    text: str


class Authorities:
    """All authorities, as of the last :meth:`refresh`. Cheap to ask; nothing here waits but refresh."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._all: dict[str, Authority] = {}
        self._generations: dict[int, Generation] = {}
        self._own_keys: frozenset[bytes] = frozenset()
        self._problems: tuple[AuthorityProblem, ...] = ()
        self._issuing: dict[int, Issuing] = {}
        self._chains: dict[int, tuple[bytes, ...]] = {}
        self._views: dict[tuple[int, tuple[str, ...]], IssuerView] = {}
        self._distributions: dict[int, Distribution] = {}
        self._points: dict[str, DistributionPoint] = {}

    async def refresh(self) -> None:
        """Read all authorities; call it when the configuration feed says that something changed."""
        found = await self._database.read(_read)
        problems: list[AuthorityProblem] = []
        authorities = {}
        for row, dn_der, generation_rows in found:
            try:
                settings = load(AuthoritySettings, row.config, f"authority {row.name}")
                generations = tuple(Generation.load(one) for one in generation_rows)
            except Rejected as error:  # one broken authority must not stop the others
                problems.append(AuthorityProblem(row.name, str(error)))
                continue
            authorities[row.name] = Authority(row.name, row.issuer_id, dn_der, settings, generations)
        self._all = authorities
        self._generations = {one.id: one for each in authorities.values() for one in each.generations}
        self._own_keys = frozenset(
            hashlib.sha256(one.ca.spki).digest() for one in self._generations.values() if one.ca is not None
        )
        self._issuing = {}
        self._chains = {}
        self._views = {}
        self._distributions = {}
        self._problems = (*problems, *_duty_problems(authorities.values()))

    def list(self) -> tuple[Authority, ...]:
        """Every authority, by name."""
        return tuple(self._all[name] for name in sorted(self._all))

    def get(self, name: str) -> Authority:
        """The authority of that name; raises :class:`Rejected` (UNKNOWN_AUTHORITY)."""
        found = self._all.get(name)
        if found is None:
            raise Rejected.because(Refusal.UNKNOWN_AUTHORITY, f"there is no authority named {name!r}")
        return found

    def generation(self, generation_id: int) -> Generation | None:
        """The key generation of that number."""
        return self._generations.get(generation_id)

    def by_crl_path(self, path: str) -> tuple[Authority, Generation] | None:
        """The generation with that path."""
        found = self.by_list_path(path)
        return found[:2] if found is not None and found[2] == FULL_SCOPE else None

    def by_list_path(self, path: str) -> tuple[Authority, Generation, str] | None:
        """The generation at or below whose path a list is, and the name of the list's scope, if there is one."""
        for one in self._generations.values():
            if path == one.crl_path:
                return self._all[one.authority], one, FULL_SCOPE
            if path.startswith(f"{one.crl_path}/"):
                return self._all[one.authority], one, path.removeprefix(f"{one.crl_path}/")
        return None

    def is_own_key(self, spki_sha256: bytes) -> bool:
        """Whether that public key is an authority's own (SHA-256 of its DER SubjectPublicKeyInfo)."""
        return spki_sha256 in self._own_keys

    def problems(self) -> tuple[AuthorityProblem, ...]:
        """What authorities cannot do although it is theirs to do."""
        return self._problems

    def issuing(self, name: str) -> Issuing:
        """The current generation of an authority as issuer; raises :class:`Rejected` with why it may not issue."""
        authority = self.get(name)
        return self.issuing_by(authority, authority.current)

    def issuing_by(self, authority: Authority, generation: Generation) -> Issuing:
        """A certain generation as issuer; raises :class:`Rejected` with why it may not issue."""
        known = self._issuing.get(generation.id)
        if known is not None:
            return known
        ca = generation.certificate
        if Duty.CERTIFICATES not in ca.duties:
            raise Rejected.because(
                Refusal.CONFIGURATION, f"the certificate of authority {authority.name} does not permit keyCertSign"
            )
        if generation.key_name is None:
            raise Rejected.because(
                Refusal.CONFIGURATION, f"the key of authority {authority.name} is not on this server (offline)"
            )
        issuing = Issuing(
            authority=authority.name,
            issuer_id=authority.issuer_id,
            generation_id=generation.id,
            key_name=generation.key_name,
            scheme=authority.scheme(generation),
            name=ca.certificate.subject,
            name_der=ca.subject_der,
            public_key=load_spki(ca.spki),
            certificate=ca.der,
            chain=(ca.der, *self.chain(generation)),
        )
        self._issuing[generation.id] = issuing
        return issuing

    def distribution(self, authority: Authority, generation: Generation) -> Distribution:
        """The distribution points of a generation."""
        known = self._distributions.get(generation.id)
        if known is None:
            same_name = (
                one for each in self._all.values() if each.issuer_id == authority.issuer_id for one in each.generations
            )
            is_first = generation.id <= min((one.id for one in same_name), default=generation.id)
            known = self._distributions[generation.id] = Distribution(authority, generation, is_first)
        return known

    def view(self, authority: Authority, generation: Generation, *, template: str = "", ca: bool = False) -> IssuerView:
        """What the content of a certificate takes from a generation: limits, identifiers, URLs.

        Ask for each certificate: where lists are cut into shards, this is what assigns it to one.
        """
        drawn = random.getrandbits(32)  # shards are to be filled evenly; there is nothing to guess
        points = self.distribution(authority, generation).named(template=template, ca=ca, drawn=drawn)
        key = (generation.id, tuple(point.scope for point in points))
        known = self._views.get(key)
        if known is None:
            publication = authority.settings.publication
            known = IssuerView(
                name=authority.name,
                certificate=generation.certificate.certificate,
                crl_points=tuple(point.urls for point in points),
                delta_points=tuple(point.delta_urls for point in points if point.delta_urls),
                ocsp_urls=publication.urls(publication.ocsp, generation.crl_path),
                ca_issuer_urls=publication.urls(publication.ca_issuers, generation.crl_path),
            )
            self._views[key] = known
            self._points.update((url, point) for point in points for url in point.urls)
        return known

    def points_named(self, urls: Iterable[str]) -> tuple[DistributionPoint, ...]:
        """Which distribution points a certificate names, of those that a view has ever given out."""
        return tuple(dict.fromkeys(point for url in urls if (point := self._points.get(url)) is not None))

    def chain(self, generation: Generation) -> tuple[bytes, ...]:
        """The DER certificates above a generation's own, issuer first, root last.

        Issuers that are authorities here are taken as they are now; above a foreign issuer it is the stored chain.
        """
        known = self._chains.get(generation.id)
        if known is None:
            known = tuple(one.der for one in self._above(generation.certificate, generation.stored_chain))
            self._chains[generation.id] = known
        return known

    def _above(self, ca: CaCertificate, stored: tuple[bytes, ...]) -> Iterator[CaCertificate]:
        for _ in range(MAXIMUM_CHAIN):
            if ca.self_issued and ca.signed_by(ca):
                return
            issuer = self._issuer_of(ca)
            if issuer is None:
                yield from (CaCertificate.load(one) for one in stored)
                return
            ca, stored = issuer.certificate, issuer.stored_chain
            yield ca

    def _issuer_of(self, ca: CaCertificate) -> Generation | None:
        for generation in self._generations.values():
            other = generation.ca
            if other is None or other.subject_der != ca.issuer_der or other.spki == ca.spki:
                continue
            if ca.signed_by(other):
                return generation
        return None

    def served(self, name: str) -> tuple[bytes, ...]:
        """What ``cacerts`` and ``.p7c`` give out: every serving generation, link certificates, and what is above (DER).

        The current generation's certificate is first (RFC 7030 section 4.1.3, RFC 4210 section 4.4). Of the authorities
        above it is everything, too: from the CA that they enrol with clients learn the root's next key, and by its link
        certificates whether to trust it.
        """
        found: dict[bytes, None] = {}
        waiting = {name: self.get(name)}
        done: set[str] = set()
        while waiting:
            authority = waiting.pop(next(iter(waiting)))
            done.add(authority.name)
            found.update(dict.fromkeys(self._serving(authority)))
            for above in self._all.values():
                known = (one.ca is not None and one.ca.der in found for one in above.generations)
                if above.name not in done and any(known):
                    waiting[above.name] = above
        return tuple(found)

    def _serving(self, authority: Authority) -> Iterator[bytes]:
        """The certificates of an authority's own keys, the newest first, each with its links and what is above it."""
        for generation in sorted(authority.generations, key=lambda one: -one.number):
            if generation.ca is None or generation.state is GenerationState.RETIRED:
                continue
            yield generation.ca.der
            yield from (link for link in (generation.new_with_old, generation.old_with_new) if link)
            yield from self.chain(generation)


_Found = tuple[tuple[rows.AuthorityRow, bytes, tuple[rows.Generation, ...]], ...]


def _read(connection: Connection) -> _Found:
    by_authority: dict[str, list[rows.Generation]] = {}
    for generation in rows.generations(connection):
        by_authority.setdefault(generation.authority, []).append(generation)
    found = []
    for row in rows.list_all(connection):
        issuer = rows.get_issuer(connection, row.issuer_id)
        assert issuer is not None  # a foreign key holds it
        found.append((row, issuer.dn_der, tuple(by_authority.get(row.name, ()))))
    return tuple(found)


def _duty_problems(authorities: Iterable[Authority]) -> Iterator[AuthorityProblem]:
    for authority in authorities:
        for generation in authority.generations:
            if generation.ca is None or generation.state not in {GenerationState.ACTIVE, GenerationState.PREVIOUS}:
                continue
            if Duty.CERTIFICATES not in generation.duties:
                yield AuthorityProblem(authority.name, "its certificate lacks keyCertSign: it issues no certificates")
            if Duty.CRLS not in generation.duties:
                yield AuthorityProblem(authority.name, "its certificate lacks cRLSign: it issues no CRLs")
