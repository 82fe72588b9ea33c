"""What EST needs of the engine, and its settings."""

from __future__ import annotations

from typing import Protocol

import attrs

from pkiserver.authority.requests import Claim, EnrollmentRequest, Evidence, IssuedCertificate
from pkiserver.authority.templates.model import Template
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.secret import Secret
from pkiserver.keys.algorithms import PrivateKey
from protocols.cms.signing import AttributeSigner, SignerProfile
from protocols.est.messages import Base64Form


@attrs.frozen
class Waiting:
    """The request is kept for an officer to decide; ask again no sooner than after ``retry_after`` seconds."""

    retry_after: int
    text: str = "the request waits for approval"


@attrs.frozen
class PackageSigner:
    """Who signs the packages that encrypted server-generated keys travel in (RFC 7030 section 4.4.2)."""

    profile: SignerProfile
    signer: AttributeSigner
    certificates: tuple[bytes, ...]


class KeyKeeper(Protocol):
    """Keeps keys that are generated here for templates that say ``escrow = true``."""

    def claim(self, template: Template, key: PrivateKey) -> Claim:
        """What keeps the key, in the transaction that makes its certificate's intent durable.

        No certificate without a kept key, then; given back, it forgets the key of which no certificate came.
        """


class EstEngine(Protocol):
    """The engine as EST sees it."""

    @property
    def clock(self) -> Clock:
        """The time."""

    def template(self, name: str) -> Template:
        """The template of that name. Raises :class:`Rejected` (unknown template)."""

    def templates(self) -> tuple[Template, ...]:
        """The templates that EST may use."""

    def served(self, authority: str) -> tuple[bytes, ...]:
        """What an authority gives out about itself (RFC 7030 section 4.1.3), DER, its current certificate first.

        Raises :class:`Rejected` (unknown authority).
        """

    async def lists(self, authority: str) -> tuple[bytes, ...]:
        """The newest complete CRL (DER) of every distribution point of an authority and of those above it.

        Raises:
            Rejected: unknown authority, or the lists are too large to be given out together.
            Unavailable: the database is away.
        """

    async def before_work(self, template: Template, evidence: tuple[Evidence, ...], source: str) -> None:
        """Ask before a key is made for somebody. Raises :class:`PkiError` where that would be for nothing."""

    async def enroll(self, request: EnrollmentRequest, *claims: Claim) -> IssuedCertificate | Waiting:
        """The one road, these claims being taken with the gate's. Raises :class:`PkiError`."""

    @property
    def keeper(self) -> KeyKeeper | None:
        """Who keeps generated keys; None where nobody does."""

    async def package_signer(self, template: Template) -> PackageSigner | None:
        """The signer of key packages for a template, of content type id-ct-KP-aKeyPackage; None where there is none."""

    async def generated(self, issued: IssuedCertificate, key: PrivateKey) -> None:
        """Do what can only be done while a key that was generated here is at hand; raises nothing."""

    async def shared_key(self, identifier: bytes) -> Secret | None:
        """The symmetric key-encryption key with that identifier (RFC 7030 section 4.4.1.1), or None."""


def _realm(_instance: object, _attribute: object, value: str) -> None:
    if not value.isascii() or not value.isprintable() or '"' in value or "\\" in value:
        raise ValueError("realm must be printable ASCII without quotes and backslashes")


@attrs.frozen
class EstSettings:
    """How this node answers EST.

    Attributes:
        default_template: The template for paths without a label; empty: the only template that EST may use, if there
            is exactly one.
        base64: How answers are written; ``auto`` suits libest, openssl, curl and strongSwan alike.
        base64_by_label: Exceptions to ``base64``, by label.
        realm: Shown when HTTP Basic credentials are asked for.
        max_body: Octets of a request body; more is refused before it is read.
        keygen_parallel: Keys that are generated at the same time; RSA takes seconds of a processor.
        keygen_waiting: Requests that may wait for their turn; more are told to come back.
    """

    default_template: str = ""
    base64: Base64Form = Base64Form.AUTO
    base64_by_label: dict[str, Base64Form] = attrs.field(factory=dict)
    realm: str = attrs.field(default="EST", validator=_realm)
    max_body: int = attrs.field(default=96 * 1024, validator=attrs.validators.in_(range(1024, 1024 * 1024)))
    keygen_parallel: int = attrs.field(default=1, validator=attrs.validators.in_(range(1, 33)))
    keygen_waiting: int = attrs.field(default=16, validator=attrs.validators.in_(range(1, 1025)))
