"""How authorities come to be: created, imported, subordinate to another CA here or elsewhere, signed offline.

Every step is durable by itself and may be repeated: a ceremony that broke off is taken up again by the same command.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Connection

from pkiserver.audit import AuditLog
from pkiserver.authority import csr
from pkiserver.authority.authorities import Authorities
from pkiserver.authority.lifecycle.certify import Actor, Certifier, Subject, check_answer, issuing_self, ordered_chain
from pkiserver.authority.lifecycle.generations import (
    NewGeneration,
    activate,
    activates,
    add_generation,
    configuration_event,
)
from pkiserver.authority.lifecycle.profile import CaProfile, ca_content, request_extensions
from pkiserver.authority.model import Authority, CaCertificate, Generation
from pkiserver.authority.requests import IssuedCertificate, spki_der
from pkiserver.authority.settings import AuthoritySettings
from pkiserver.authority.tampering import DIGEST, digest
from pkiserver.authority.templates.build import IssuerView
from pkiserver.foundation.bounds import SITE_NAME
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.tomlfile import dump
from pkiserver.keys.algorithms import KeyType, PublicKey, SignatureScheme, load_spki
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.authority import authorities as rows
from pkiserver.store.database import Database

CA_DOORS = frozenset({Door.CERTIFICATE, Door.CRL, Door.OCSP, Door.CMS})
"""What a CA's key is made for: its own duties, OCSP answers until a responder certificate exists, and telling SCEP
clients of its successor (RFC 8894 section 4.7)."""
SCEP_DOORS = CA_DOORS | {Door.OPEN}
"""The same for an RSA key that shall open SCEP envelopes by itself, without a registration authority."""
ENABLED = "enabled"


@attrs.frozen
class KeyChoice:
    """Which key an authority gets.

    ``name`` is a key of the ring. With ``uri`` it is adopted from there under that name; else it is made in ``store``
    as a ``key_type`` key if the ring has none of that name. By default the name is the generation's.
    """

    name: str | None = None
    key_type: KeyType | None = None
    store: str | None = None
    uri: str | None = None
    doors: frozenset[Door] = CA_DOORS


@attrs.frozen
class NewAuthority:
    """An authority that is to be created."""

    name: str
    subject: x509.Name
    profile: CaProfile
    key: KeyChoice
    settings: AuthoritySettings = attrs.field(factory=AuthoritySettings)


@attrs.frozen
class ExistingAuthority:
    """An authority that has a certificate (DER) already. ``chain`` (DER, any order) may leave out what is known here.

    ``key`` is None where the key is not on this server: an offline CA.
    """

    name: str
    certificate: bytes = attrs.field(repr=False)
    chain: tuple[bytes, ...] = attrs.field(default=(), repr=False)
    key: KeyChoice | None = None
    settings: AuthoritySettings = attrs.field(factory=AuthoritySettings)


class Ceremonies:
    """Creates and changes authorities. After each change :class:`Authorities` has been refreshed."""

    def __init__(
        self,
        *,
        database: Database,
        audit: AuditLog,
        keys: KeyRing,
        authorities: Authorities,
        certifier: Certifier,
        clock: Clock,
    ) -> None:
        self._database = database
        self._audit = audit
        self._keys = keys
        self._authorities = authorities
        self._certifier = certifier
        self._clock = clock

    async def create_root(self, new: NewAuthority, actor: Actor) -> Authority:
        """A root with a self-signed certificate.

        Raises:
            Rejected: the name or the DN is taken, the key cannot be made, or the certificate is not fit.
            Unavailable: the database or the key store is away.
        """
        self._check_profile(new.profile, None)
        authority, generation, public_key = await self._begin(new, actor)
        content = ca_content(new.profile, public_key, None, self._clock.now())
        issuing = issuing_self(authority, generation, public_key)
        subject = Subject(new.subject, authority.subject_der, public_key)
        await self._certifier.certify(issuing, subject, content, actor, also=activates(generation.id))
        await self._authorities.refresh()
        return self._authorities.get(new.name)

    async def create_subordinate(self, new: NewAuthority, actor: Actor, *, issuer: str) -> Authority:
        """A CA below one of this server's, whose key must be here. Raises as :meth:`create_root`."""
        above = self._authorities.get(issuer)
        issuing = self._authorities.issuing(issuer)
        view = self._authorities.view(above, above.current, ca=True)
        self._check_profile(new.profile, view)
        authority, generation, public_key = await self._begin(new, actor)
        content = ca_content(new.profile, public_key, view, self._clock.now())
        subject = Subject(new.subject, authority.subject_der, public_key)
        also = activates(generation.id, issuing.chain)
        await self._certifier.certify(issuing, subject, content, actor, also=also)
        await self._authorities.refresh()
        return self._authorities.get(new.name)

    def _check_profile(self, profile: CaProfile, issuer: IssuerView | None) -> None:
        """Refuse what cannot become a certificate before a key is made for it and a name taken."""
        ca_content(profile, ec.generate_private_key(ec.SECP256R1()).public_key(), issuer, self._clock.now())

    async def create_requested(self, new: NewAuthority, actor: Actor) -> bytes:
        """A CA that another server's CA is to certify: its key is made, and the DER request for it returned."""
        await self._begin(new, actor)
        return await self.request(new.name, new.profile)

    async def request(self, name: str, profile: CaProfile | None = None) -> bytes:
        """The DER PKCS#10 request of an authority: for its pending generation, else to renew its current one.

        Raises:
            Rejected: there is no such authority, or its key is not on this server.
            Unavailable: the key is away.
        """
        authority = self._authorities.get(name)
        generation = authority.pending or authority.current
        if generation.key_name is None:
            raise Rejected.because(Refusal.CONFIGURATION, f"the key of authority {name} is not on this server")
        public_key = self._keys.public_key(generation.key_name)
        wanted = request_extensions(profile or CaProfile(), public_key)
        info = csr.request_info(authority.subject_der, spki_der(public_key), wanted)
        signer = self._keys.request_signer(generation.key_name)
        return await signer.sign(info, _scheme(authority, public_key))

    async def install(self, name: str, certificate: bytes, chain: Sequence[bytes], actor: Actor) -> Authority:
        """The signed answer to :meth:`request`; its chain (any order) may leave out authorities that are known here.

        Raises:
            Rejected: with every reason: another key or DN, no CA certificate, expired, a chain that does not hold.
        """
        authority = self._authorities.get(name)
        ca = CaCertificate.load(certificate)
        generation = self._answered(authority, ca)
        assert generation.key_name is not None
        spki = spki_der(self._keys.public_key(generation.key_name))
        above = check_answer(ca, authority.subject_der, spki, self._known(chain), self._clock.now())
        event = configuration_event(
            actor, name, "certificate installed", ("serial", f"{ca.certificate.serial_number:x}")
        )

        def work(connection: Connection) -> None:
            activate(connection, generation.id, certificate, tuple(one.der for one in above))
            self._audit.append(connection, event)

        await self._database.write(work)
        await self._authorities.refresh()
        return self._authorities.get(name)

    def _answered(self, authority: Authority, ca: CaCertificate) -> Generation:
        """The generation that a certificate answers: by its key, so that renewal and rekey may be under way at once."""
        candidates = [one for one in (authority.pending, *reversed(authority.generations)) if one and one.key_name]
        for generation in candidates:
            assert generation.key_name is not None
            if spki_der(self._keys.public_key(generation.key_name)) == ca.spki:
                return generation
        if not candidates:
            raise Rejected.because(Refusal.CONFIGURATION, f"authority {authority.name} has no key on this server")
        return candidates[0]

    async def import_authority(self, existing: ExistingAuthority, actor: Actor) -> Authority:
        """An authority that exists already: its certificate, and its key where it is here (None: offline).

        Raises:
            Rejected: with every reason: no CA certificate, the key is another one, the name or DN is taken.
        """
        ca = CaCertificate.load(existing.certificate)
        above = ordered_chain(ca, self._known(existing.chain))
        await self._check_new(existing.name, ca.subject_der)
        key_name = None
        if existing.key is not None:
            key_name, public_key = await self.choose_key(f"{existing.name}-1", existing.key, actor)
            if spki_der(public_key) != ca.spki:
                raise Rejected.because(Refusal.CONFLICT, f"key {key_name!r} is not the key of the certificate")
        first = NewGeneration(ca.subject_der, ca.certificate.subject, key_name, ca, tuple(one.der for one in above))
        await self._record(existing.name, existing.settings, first, actor)
        return self._authorities.get(existing.name)

    async def sign_request(self, issuer: str, request: bytes, profile: CaProfile, actor: Actor) -> IssuedCertificate:
        """Certify another server's CA from its DER PKCS#10 request: what an offline root does.

        Raises:
            Rejected: with every reason: a bad request or key, or what the issuer's certificate does not allow.
        """
        parsed = csr.parse_request(request)
        authority = self._authorities.get(issuer)
        issuing = self._authorities.issuing(issuer)
        if parsed.wishes.subject is None:
            raise Rejected.because(Refusal.BAD_SUBJECT, "the request has no subject, which a CA needs")
        self._check_foreign(parsed, authority)
        view = self._authorities.view(authority, authority.current, ca=True)
        content = ca_content(profile, parsed.public_key, view, self._clock.now())
        subject = Subject(parsed.wishes.subject, parsed.subject_der, parsed.public_key)
        return await self._certifier.certify(issuing, subject, content, actor)

    def _check_foreign(self, parsed: csr.ParsedRequest, issuer: Authority) -> None:
        """A request under the issuer's own name or key, or under the key of another authority here, is a mistake."""
        if parsed.subject_der == issuer.subject_der:
            raise Rejected.because(Refusal.BAD_SUBJECT, "the request asks for the issuer's own name")
        for other in self._authorities.list():
            for generation in other.generations:
                same_key = generation.ca is not None and generation.ca.spki == parsed.spki
                if same_key and other.subject_der != parsed.subject_der:
                    raise Rejected.because(Refusal.BAD_KEY, f"the key is that of authority {other.name}")

    def _known(self, chain: Iterable[bytes]) -> list[CaCertificate]:
        """The given certificates and those of every authority here."""
        known = [CaCertificate.load(one) for one in chain]
        for authority in self._authorities.list():
            for generation in authority.generations:
                if generation.ca is not None:
                    known += [generation.ca, *(CaCertificate.load(one) for one in generation.stored_chain)]
        return known

    async def _begin(self, new: NewAuthority, actor: Actor) -> tuple[Authority, Generation, PublicKey]:
        """The authority with a pending generation and its key; one that broke off before is taken up again."""
        subject_der = new.subject.public_bytes()
        if not list(new.subject):
            raise Rejected.because(Refusal.BAD_SUBJECT, "a CA needs a subject")
        await self._authorities.refresh()
        known = next((one for one in self._authorities.list() if one.name == new.name), None)
        if known is None or known.pending is None or known.subject_der != subject_der:
            await self._check_new(new.name, subject_der)
            default = f"{new.name}-1"
            self._check_scheme(new, default)
            key_name, public_key = await self.choose_key(default, new.key, actor)
            if new.settings.scheme:
                SignatureScheme.parse(new.settings.scheme).require(public_key)
            await self._record(new.name, new.settings, NewGeneration(subject_der, new.subject, key_name), actor)
        authority = self._authorities.get(new.name)
        generation = authority.pending
        assert generation is not None
        assert generation.key_name is not None
        return authority, generation, self._keys.public_key(generation.key_name)

    def _check_scheme(self, new: NewAuthority, default: str) -> None:
        """Refuse a scheme that does not suit the key that would be made; one that exists says so itself."""
        choice, scheme = new.key, new.settings.scheme
        to_be_made = choice.uri is None and all(info.name != (choice.name or default) for info in self._keys.list())
        if scheme and to_be_made and choice.key_type and not SignatureScheme.parse(scheme).suits_type(choice.key_type):
            raise Rejected.because(Refusal.BAD_ALGORITHM, f"a key of type {choice.key_type} cannot sign by {scheme}")

    async def _check_new(self, name: str, dn_der: bytes) -> None:
        await self._authorities.refresh()
        if not SITE_NAME.fullmatch(name):
            raise Rejected.because(
                Refusal.CONFIGURATION, "an authority's name is 1 to 63 letters, digits, dots, hyphens and underscores"
            )
        for other in self._authorities.list():
            if other.name == name:
                raise Rejected.because(Refusal.CONFLICT, f"an authority named {name!r} exists already")
            if other.subject_der == dn_der:
                raise Rejected.because(
                    Refusal.CONFLICT, f"authority {other.name!r} has this DN; rekey it for a new key"
                )

    async def choose_key(self, default: str, choice: KeyChoice, actor: Actor) -> tuple[str, PublicKey]:
        """The chosen key, made or adopted if it is not in the ring yet; one key never serves two authorities."""
        name = choice.name or default
        present = any(info.name == name for info in self._keys.list())
        used = await self._database.read(lambda connection: rows.generations_using_key(connection, name))
        if used:
            raise Rejected.because(Refusal.CONFLICT, f"key {name!r} is authority {used[0].authority}'s already")
        if choice.uri is not None and not present:
            await self._keys.adopt(name, choice.uri, choice.doors, actor=actor.name)
        elif not present:
            if choice.key_type is None or choice.store is None:
                raise Rejected.because(Refusal.CONFIGURATION, f"there is no key {name!r}: say of which type and where")
            await self._keys.generate(name, choice.key_type, store=choice.store, doors=choice.doors, actor=actor.name)
        return name, self._keys.public_key(name)

    async def _record(self, name: str, settings: AuthoritySettings, first: NewGeneration, actor: Actor) -> None:
        now = self._clock.now()
        dn_text = first.subject.rfc4514_string()
        what = "created" if first.ca is None else "imported"
        text = dump(settings)
        details = (("subject", dn_text), ("key", first.key_name or "offline"), (DIGEST, digest(text)))
        event = configuration_event(actor, name, what, *details)

        def work(connection: Connection) -> None:
            issuer = rows.issuer_for(connection, first.subject_der, dn_text, now=now)
            rows.insert_authority(connection, rows.AuthorityRow(name, issuer.id, text, ENABLED, now))
            add_generation(connection, name, first, now)
            self._audit.append(connection, event)

        await self._database.write(work)
        await self._authorities.refresh()


def _scheme(authority: Authority, public_key: PublicKey) -> SignatureScheme:
    if not authority.settings.scheme:
        return SignatureScheme.default_for(public_key)
    return SignatureScheme.parse(authority.settings.scheme).require(load_spki(spki_der(public_key)))
