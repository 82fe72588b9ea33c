"""The engine as EST wants to see it."""

from __future__ import annotations

import attrs

from pkiserver.authority.requests import EnrollmentRequest, IssuedCertificate
from pkiserver.authority.templates.model import Template
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.secret import Secret
from pkiserver.registration.approvals import Pending
from pkiserver.runtime.engine import Engine
from protocols.est.ports import PackageSigner, Waiting


@attrs.frozen
class EstPort:
    """Implements :class:`protocols.est.ports.EstEngine`."""

    engine: Engine

    @property
    def clock(self) -> Clock:
        """The time."""
        return self.engine.clock

    def template(self, name: str) -> Template:
        """The template of that name; raises :class:`Rejected` (unknown template)."""
        return self.engine.templates.get(name)

    def templates(self) -> tuple[Template, ...]:
        """Every template that can be used."""
        return tuple(stored.template for stored in self.engine.templates.list())

    def served(self, authority: str) -> tuple[bytes, ...]:
        """An authority's certificates, its current one first; raises :class:`Rejected` (unknown authority)."""
        return self.engine.authorities.served(authority)

    async def enroll(self, request: EnrollmentRequest) -> IssuedCertificate | Waiting:
        """The one road; raises :class:`PkiError`."""
        answer = await self.engine.enroll(request)
        if isinstance(answer, Pending):
            return Waiting(answer.retry_after, f"request {answer.request_number} waits for approval")
        return answer

    async def package_signer(self, template: Template) -> PackageSigner | None:
        """None: no key of this server is bound to sign key packages, so keys go out under TLS alone."""
        del template
        return None

    async def shared_key(self, identifier: bytes) -> Secret | None:
        """None: no symmetric keys are shared with clients."""
        del identifier
        return None
