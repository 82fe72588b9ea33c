"""What SCEP needs of the engine, and its settings."""

from __future__ import annotations

from typing import Protocol

import attrs
from cryptography import x509

from pkiserver.authority.requests import Claim, EnrollmentRequest, IssuedCertificate
from pkiserver.authority.templates.model import Template
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.secret import Secret
from pkiserver.registration.approvals import Pending
from pkiserver.registration.transactions import Transactions
from pkiserver.store.certificates import Certificate
from protocols.cms.opening import KeyOpener
from protocols.cms.signing import AttributeSigner, SignerProfile


@attrs.frozen
class Answerer:
    """Who signs answers and opens envelopes for an authority: its registration authority, or itself.

    ``certificates`` are its own, DER; ``chain`` those above, the issuing CA first.
    """

    signing: x509.Certificate
    signer: AttributeSigner
    opening: x509.Certificate
    opener: KeyOpener
    certificates: tuple[bytes, ...] = attrs.field(repr=False)
    chain: tuple[bytes, ...] = attrs.field(repr=False)


@attrs.frozen
class NextAuthority:
    """The CA certificates that come next, and who signs that they do: the CA key that clients know (section 4.7)."""

    certificates: tuple[bytes, ...] = attrs.field(repr=False)
    profile: SignerProfile
    signer: AttributeSigner


class ScepEngine(Protocol):
    """The engine as SCEP sees it."""

    @property
    def clock(self) -> Clock:
        """The time."""

    @property
    def transactions(self) -> Transactions:
        """The transaction store."""

    def template(self, name: str) -> Template:
        """The template of that name. Raises :class:`Rejected` (unknown template)."""

    def has_authority(self, name: str) -> bool:
        """Whether there is an authority of that name."""

    async def answerers(self, authority: str, *, anew: bool = False) -> tuple[Answerer, ...]:
        """All that messages may be for, the one to give out first. Raises :class:`PkiError`.

        ``anew``: another process may have made one since.
        """

    async def first(self, authority: str) -> Answerer:
        """The one to give out. Raises :class:`PkiError`, also where its keys cannot be used here now."""

    async def enroll(self, request: EnrollmentRequest, claim: Claim) -> IssuedCertificate | Pending:
        """The one road, the claim being taken with the gate's. Raises :class:`PkiError`."""

    async def known(self, der: bytes) -> Certificate | None:
        """The record of a certificate that was issued here."""

    async def is_spent(self, challenge: Secret) -> bool:
        """Whether a challengePassword is an enrolment code of this server's that is good for nothing any more."""

    async def certificate(self, authority: str, issuer: x509.Name, serial: int) -> Certificate | None:
        """The record of an authority's certificate; None also where ``issuer`` is another."""

    async def crl(self, authority: str, issuer: x509.Name, serial: int) -> bytes | None:
        """The newest CRL for a certificate of an authority, DER."""

    def has_next(self, authority: str) -> bool:
        """Whether :meth:`next_authority` has something to give."""

    async def next_authority(self, authority: str) -> NextAuthority | None:
        """What GetNextCACert gives out; None while there is nothing. Raises :class:`PkiError`."""


@attrs.frozen
class ScepSettings:
    """How this node answers SCEP.

    Attributes:
        default_template: The template for paths that name none (``/cgi-bin/pkiclient.exe``); empty: none.
        max_body: Octets of a message; more is refused before it is read.
        password_parallel: Answers under a password that are made at the same time: each takes 0.3 s of a processor.
        password_waiting: Answers that may wait for their turn; more are told to come back.
    """

    default_template: str = ""
    max_body: int = attrs.field(default=128 * 1024, validator=attrs.validators.in_(range(1024, 1024 * 1024)))
    password_parallel: int = attrs.field(default=1, validator=attrs.validators.in_(range(1, 33)))
    password_waiting: int = attrs.field(default=16, validator=attrs.validators.in_(range(1, 1025)))
