"""The engine as SCEP wants to see it."""

from __future__ import annotations

import hashlib

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.authority.delegates.ra import RaKeeper, RegistrationAuthority
from pkiserver.authority.distribution import scope_path
from pkiserver.authority.model import Authority, Generation, GenerationState
from pkiserver.authority.requests import Claim, EnrollmentRequest, IssuedCertificate
from pkiserver.authority.status.turns import StatusProblem
from pkiserver.authority.templates.model import Template
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.keys.doors import Door
from pkiserver.keys.faults import KeyUnavailable
from pkiserver.registration.approvals import Pending
from pkiserver.registration.transactions import Transactions
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.services.ownkeys import own_keys
from pkiserver.store import certificates
from pkiserver.store.authority.crl_content import scopes_with
from pkiserver.store.certificates import Certificate
from protocols.cms import oids
from protocols.cms.signing import SignerProfile
from protocols.scep.ports import Answerer, NextAuthority
from protocols.scep.requesting import PROTOCOL


@attrs.frozen
class ScepPort:
    """Implements :class:`protocols.scep.ports.ScepEngine`."""

    engine: Engine
    transactions: Transactions = attrs.field(init=False)
    ra: RaKeeper = attrs.field(init=False)
    _made: dict[str, tuple[tuple[RegistrationAuthority, ...], bytes, tuple[Answerer, ...]]] = attrs.field(
        init=False, factory=dict
    )

    @transactions.default
    def _make_transactions(self) -> Transactions:
        return Transactions(self.engine.database, self.engine.clock)

    @ra.default
    def _make_keeper(self) -> RaKeeper:
        return RaKeeper(own_keys(self.engine))

    @property
    def clock(self) -> Clock:
        """The time."""
        return self.engine.clock

    def template(self, name: str) -> Template:
        """The template of that name; raises :class:`Rejected` (unknown template)."""
        return self.engine.templates.get(name)

    def templates(self) -> tuple[Template, ...]:
        """The templates that SCEP may use."""
        return self.engine.templates.served(PROTOCOL)

    def has_authority(self, name: str) -> bool:
        """Whether there is an authority of that name."""
        return any(one.name == name for one in self.engine.authorities.list())

    async def answerers(self, authority: str, *, anew: bool = False) -> tuple[Answerer, ...]:
        """The authority's registration authorities, the one to give out first; raises :class:`PkiError`."""
        found = await self.ra.get(authority, anew=anew)
        current = self.engine.authorities.get(authority).current
        made = self._made.get(authority)
        if made is None or made[0] is not found or made[1] != current.certificate.der:
            issuing = (current.certificate.der, *self.engine.authorities.chain(current))
            # of an older one the whole key store may be missing here
            usable = [one for one in found if self.ra.trouble(one) is None] or found[:1]
            answerers = tuple(self._answerer(one, issuing) for one in usable)
            made = self._made[authority] = (found, current.certificate.der, answerers)
        return made[2]

    async def first(self, authority: str) -> Answerer:
        """The one to give out; raises :class:`PkiError`, also where this node cannot use its keys now."""
        [found, *_] = await self.ra.get(authority)
        trouble = self.ra.trouble(found)
        if trouble is not None:
            raise KeyUnavailable(trouble)
        return (await self.answerers(authority))[0]

    def _answerer(self, found: RegistrationAuthority, issuing: tuple[bytes, ...]) -> Answerer:
        """With the chain of those who issue now, and where it is another (just after a rekeying) its own too."""
        keys = self.engine.keys
        both = (*issuing[:1], *found.chain[:1], *found.chain[1:], *issuing[1:])
        return Answerer(
            signing=found.signing.certificate,
            signer=keys.cms_signer(found.signing.key_name, oids.DATA),
            opening=found.opening.certificate,
            opener=keys.envelope_opener(found.opening.key_name),
            certificates=found.certificates,
            chain=tuple(dict.fromkeys(both)),
        )

    async def enroll(self, request: EnrollmentRequest, claim: Claim) -> IssuedCertificate | Pending:
        """The one road; raises :class:`PkiError`."""
        return await self.engine.enroll(request, claims=(claim,))

    async def known(self, der: bytes) -> Certificate | None:
        """The record of a certificate that was issued here."""
        digest = hashlib.sha256(der).digest()
        return await self.engine.database.look_up(lambda connection: certificates.by_fingerprint(connection, digest))

    async def is_spent(self, challenge: Secret) -> bool:
        """Whether a challengePassword is an enrolment code of ours that is good for nothing any more."""
        grant = await self.engine.codes.find(challenge)
        return grant is not None and not grant.usable

    async def certificate(self, authority: str, issuer: x509.Name, serial: int) -> Certificate | None:
        """The record of an authority's certificate."""
        found = self.engine.authorities.get(authority)
        if found.subject != issuer:
            return None

        def look(connection: Connection) -> Certificate | None:
            return certificates.by_serial(connection, found.issuer_id, serial)

        return await self.engine.database.read(look)

    async def crl(self, authority: str, issuer: x509.Name, serial: int) -> bytes | None:
        """The newest CRL for a certificate; for an unknown serial the current key generation's complete one.

        Where lists are cut into parts there may be no complete one: then it is the part that the certificate is in.
        """
        found = self.engine.authorities.get(authority)
        if found.subject != issuer:
            return None
        wanted = await self.certificate(authority, issuer, serial)
        generation = None if wanted is None else self.engine.authorities.generation(wanted.generation_id)
        path = (generation or found.current).crl_path
        paths = [path]
        if wanted is not None:
            number = wanted.id
            scopes = await self.engine.database.read(lambda connection: scopes_with(connection, number))
            paths += [scope_path(path, one) for one in scopes]
        for one in paths:
            published = await self.engine.status.publications.crl(one)
            if published is not None:
                return published.der
        return None

    def has_next(self, authority: str) -> bool:
        """Whether there is a successor that an earlier key of the authority can vouch for."""
        return self._predecessor(self.engine.authorities.get(authority)) is not None

    async def next_authority(self, authority: str) -> NextAuthority | None:
        """The current CA certificate and those above, vouched for by the key before it."""
        found = self.engine.authorities.get(authority)
        old = self._predecessor(found)
        if old is None or old.key_name is None:
            return None
        signer = self.engine.keys.cms_signer(old.key_name, oids.DATA)
        profile = SignerProfile(old.certificate.certificate, signer.default_scheme)
        current = found.current
        chain = (current.certificate.der, *self.engine.authorities.chain(current))
        return NextAuthority(chain, profile, signer)

    def _predecessor(self, authority: Authority) -> Generation | None:
        """The newest generation before the current one whose key is here and may sign messages.

        Once its certificate has ended no client can believe it, and none needs the next CA's "to be used when the
        current CA certificate expires" (RFC 8894 section 4.7.1) any more: GetCACert has it.
        """
        now = self.clock.now()
        for one in sorted(authority.generations, key=lambda each: -each.number):
            if one.state is not GenerationState.PREVIOUS or one.key_name is None or one.ca is None:
                continue
            if one.ca.not_after < now:
                continue
            try:
                if Door.CMS in self.engine.keys.show(one.key_name).record.doors:
                    return one
            except Rejected:
                continue  # its key has been deleted
        return None

    async def keep(self) -> None:
        """Make and renew what is due; for a job."""
        await self.ra.run_due(dict.fromkeys(one.issuer for one in self.templates()))

    def problems(self) -> tuple[StatusProblem, ...]:
        """What is not as it should be, for readiness."""
        return self.ra.problems()
