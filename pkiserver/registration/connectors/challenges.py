"""Challenges that another service gave out: it is asked about them with the whole request, and told what came of it."""

from __future__ import annotations

import base64
from typing import Protocol, runtime_checkable

import attrs

from pkiserver.authority.csr import subject_text
from pkiserver.foundation.secret import Secret
from pkiserver.registration.connectors.values import Finding, Outcome


@attrs.frozen
class ChallengeQuestion:
    """A challenge and the PKCS#10 request (DER) that it came with; the service compares the two."""

    challenge: Secret
    csr: bytes = attrs.field(repr=False)
    template: str
    transaction: str

    @property
    def csr_base64(self) -> str:
        """The request as services want it."""
        return base64.b64encode(self.csr).decode()

    @property
    def subject(self) -> str:
        """Whom the request is for: the subject as RFC 4514 text, up to 256 characters."""
        return subject_text(self.csr)[:256] or "no subject"


@attrs.frozen
class PollQuestion:
    """A request that the service has been asked about with its challenge, which is not kept: what of it now?

    ``name`` is who the service's first answer showed, ``transaction`` the request's.
    """

    name: str
    template: str
    transaction: str


@attrs.frozen
class Issued:
    """The certificate (DER) that a question brought."""

    certificate: bytes = attrs.field(repr=False)
    authority: str


@attrs.frozen
class Refused:
    """Why a question brought none, in words for the service's administrator."""

    text: str


@runtime_checkable
class ChallengeValidator(Protocol):
    """A service that gave out challenges."""

    async def validate(self, question: ChallengeQuestion) -> Outcome:
        """Whether the challenge is good for this very request; raises :class:`Unavailable`."""

    async def resume(self, question: PollQuestion) -> Outcome:
        """Whether a request that was let in, to wait, may have its certificate now; raises :class:`Unavailable`."""

    @property
    def wants_reports(self) -> bool:
        """Whether it is told what came of a request that it let in."""

    async def report(self, question: ChallengeQuestion, result: Issued | Refused) -> None:
        """Tell what came of it; the question's challenge is empty, it stands in the CSR. Raises Unavailable."""


class ChallengeService(ChallengeValidator, Protocol):
    """A connector that does nothing else."""

    async def check(self, name: str | None, password: Secret | None) -> tuple[Finding, ...]:
        """Try it out."""

    def close(self) -> None:
        """Let go of what it holds."""
