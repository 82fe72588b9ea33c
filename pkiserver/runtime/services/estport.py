"""The engine as EST wants to see it."""

from __future__ import annotations

import attrs
from cryptography import x509

from pkiserver.authority.delegates.packagers import Packagers
from pkiserver.authority.requests import Claim, EnrollmentRequest, Evidence, IssuedCertificate
from pkiserver.authority.templates.model import Template
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.keys.algorithms import PrivateKey
from pkiserver.registration.approvals import Pending
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.services.announcements import Announcements
from pkiserver.runtime.services.ownkeys import own_keys
from protocols.cms import oids
from protocols.cms.signing import SignerProfile
from protocols.est.edge import PROTOCOL
from protocols.est.ports import KeyKeeper, PackageSigner, Waiting

MOST_LISTS = 4 * 1024 * 1024
"""Octets of revocation lists in one answer."""


@attrs.frozen
class EstPort:
    """Implements :class:`protocols.est.ports.EstEngine`."""

    engine: Engine
    keeper: KeyKeeper | None = None
    """Nothing keeps keys yet: templates that want it are answered so."""
    packagers: Packagers = attrs.field(init=False)

    @packagers.default
    def _make_packagers(self) -> Packagers:
        return Packagers(own_keys(self.engine))

    @property
    def clock(self) -> Clock:
        """The time."""
        return self.engine.clock

    def template(self, name: str) -> Template:
        """The template of that name; raises :class:`Rejected` (unknown template)."""
        return self.engine.templates.get(name)

    def templates(self) -> tuple[Template, ...]:
        """The templates that EST may use."""
        return self.engine.templates.served(PROTOCOL)

    def served(self, authority: str) -> tuple[bytes, ...]:
        """An authority's certificates, its current one first; raises :class:`Rejected` (unknown authority)."""
        return self.engine.authorities.served(authority)

    async def lists(self, authority: str) -> tuple[bytes, ...]:
        """The newest complete CRLs of an authority and of those above; see the interface."""
        served = frozenset(self.engine.authorities.served(authority))
        found: list[bytes] = []
        for one in self.engine.authorities.list():
            if any(generation.ca is not None and generation.ca.der in served for generation in one.generations):
                found += await self.engine.status.publications.complete_lists(one.name)
        if sum(map(len, found)) > MOST_LISTS:
            text = "the lists are too large to be given out together: fetch them from their distribution points"
            raise Rejected.because(Refusal.UNSUPPORTED, text)
        return tuple(found)

    async def before_work(self, template: Template, evidence: tuple[Evidence, ...], source: str) -> None:
        """Whether to make a key for somebody; raises :class:`PkiError`."""
        await self.engine.gate.before_work(template.name, PROTOCOL, evidence, source)

    async def enroll(self, request: EnrollmentRequest, *claims: Claim) -> IssuedCertificate | Waiting:
        """The one road; raises :class:`PkiError`."""
        answer = await self.engine.enroll(request, claims=claims)
        if isinstance(answer, Pending):
            return Waiting(answer.retry_after, f"request {answer.request_number} waits for approval")
        return answer

    async def package_signer(self, template: Template) -> PackageSigner | None:
        """The authority's key generation signer, made when first needed; raises :class:`PkiError`."""
        found = await self.packagers.get(template.issuer)
        certificate = x509.load_der_x509_certificate(found.certificate)
        signer = self.engine.keys.cms_signer(found.key_name, oids.KEY_PACKAGE)
        profile = SignerProfile(certificate, signer.default_scheme)
        return PackageSigner(profile, signer, (found.certificate, *found.chain))

    async def generated(self, issued: IssuedCertificate, key: PrivateKey) -> None:
        """Announce what can be done with it, where the address book shows it."""
        await Announcements(self.engine).generated(issued, key)

    async def shared_key(self, identifier: bytes) -> Secret | None:
        """None: no symmetric keys are shared with clients."""
        del identifier
        return None
