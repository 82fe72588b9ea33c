"""What every room says about an enrolment: frozen values only, no behaviour that touches the world.

The road is ``EnrollmentRequest`` -> (the gate) -> ``Authorised`` -> (prepare) -> ``PreparedCertificate`` -> (issue) ->
``IssuedCertificate``. A client supplies a public key and wishes; nothing here says yes to anything.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes, CertificatePublicKeyTypes

from pkiserver.foundation.secret import Secret

if TYPE_CHECKING:
    from sqlalchemy import Connection


def spki_der(public_key: CertificatePublicKeyTypes) -> bytes:
    """The DER SubjectPublicKeyInfo of a public key."""
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


@attrs.frozen
class RequestedExtension:
    """An extension that a client asked for, undecoded: ``value`` is the DER inside extnValue's OCTET STRING."""

    oid: str
    critical: bool
    value: bytes


@attrs.frozen
class Wishes:
    """What the client asked for. Template and registration record decide what becomes of it.

    ``not_before``, ``not_after`` and ``lifetime_seconds`` are wishes about validity that some protocols carry.
    """

    subject: x509.Name | None = None
    sans: tuple[x509.GeneralName, ...] = ()
    extensions: tuple[RequestedExtension, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None
    lifetime_seconds: int | None = None


@attrs.frozen
class PasswordEvidence:
    """A name and a password, as HTTP Basic or a bind brings them.

    ``challenge`` is the token of the challenge that the password answers, where a connector asked for more.
    """

    name: str
    password: Secret
    challenge: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen
class ClientCertificateEvidence:
    """A client certificate whose private key the peer has proved to hold (TLS, or a verified signature)."""

    certificate: bytes
    chain: tuple[bytes, ...] = ()


@attrs.frozen
class CodeEvidence:
    """A one-time enrolment code; ``name`` is what the client wrote beside it, often empty."""

    code: Secret
    name: str = ""


@attrs.frozen
class SharedSecretEvidence:
    """A MAC under a secret that both sides know was verified; ``reference`` names the secret."""

    reference: str


@attrs.frozen
class ChallengeEvidence:
    """A challengePassword that has not the form of an enrolment code: the template's static one, or a service's.

    ``csr`` is the PKCS#10 request (DER) that it stands in, which a service compares with what it was given out for. It
    is here, and not in the request, where that is kept for officers to see: the challenge is no business of theirs.
    ``tells`` is the connector that took it and wants to be told what comes of the request; the gate finds it.
    """

    challenge: Secret
    csr: bytes | None = attrs.field(default=None, repr=False)
    transaction: str = ""
    tells: str = ""


@attrs.frozen
class SelfSignedEvidence:
    """Nothing but a message signed with the very key to be certified: it shows nobody, and tells requests apart.

    ``spki_sha256`` is of that key's DER SubjectPublicKeyInfo.
    """

    spki_sha256: bytes


@attrs.frozen
class ResumedEvidence:
    """Evidence that was found good when the request came; ``requester`` is the name that it showed.

    Only for a request that waits for a decision: the secret behind the evidence is not kept. ``transaction`` is the
    protocol's own name for the request.
    """

    requester: str
    transaction: str = ""


@attrs.frozen
class OperatorEvidence:
    """Somebody at the server's own command line, with rights to its database and token."""

    name: str


Evidence = (
    PasswordEvidence
    | ClientCertificateEvidence
    | CodeEvidence
    | SharedSecretEvidence
    | ChallengeEvidence
    | SelfSignedEvidence
    | ResumedEvidence
    | OperatorEvidence
)


@attrs.frozen
class Device:
    """The device that a request comes from, as it says: ``signature`` is a hash over its parts, ``name`` for people."""

    signature: str
    name: str = ""


class ProofKind(enum.StrEnum):
    """How possession of the private key was shown."""

    CSR_SIGNATURE = "csr-signature"
    TLS_LINKED = "tls-linked"
    SIGNED_MESSAGE = "signed-message"
    RA_VERIFIED = "ra-verified"
    GENERATED_HERE = "generated-here"
    INDIRECT = "indirect"
    NONE = "none"


@attrs.frozen
class ProofOfPossession:
    """The proof, and whether it has been verified by the code that built this value (RFC 4211 section 4)."""

    kind: ProofKind
    verified: bool


@attrs.frozen
class EnrollmentRequest:
    """A protocol's message, decoded and bounded, asking for one certificate.

    ``spki`` is the DER SubjectPublicKeyInfo as received; ``csr`` the PKCS#10 DER where there was one; ``renewal_of``
    the DER of the certificate that is to be renewed; ``source`` the peer's address; ``received`` an aware UTC datetime;
    ``device`` for templates whose seats know devices.
    """

    template: str
    public_key: CertificatePublicKeyTypes
    spki: bytes = attrs.field(repr=False)
    proof: ProofOfPossession
    wishes: Wishes
    evidence: tuple[Evidence, ...]
    protocol: str
    source: str
    request_id: str
    transaction_id: str | None = None
    csr: bytes | None = attrs.field(default=None, repr=False)
    renewal_of: bytes | None = attrs.field(default=None, repr=False)
    received: datetime | None = None
    device: Device | None = None


@attrs.frozen
class RegistrationRecord:
    """Who it is, as the gate found. ``subject`` and ``sans``, where given, replace what the client wished.

    ``notes`` are for the person, such as that the password expires soon. ``nameless``: the evidence showed nobody by
    name, and ``name`` may be no more than what the request asks for.
    """

    name: str
    groups: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, str], ...] = ()
    subject: x509.Name | None = None
    sans: tuple[x509.GeneralName, ...] | None = None
    notes: tuple[str, ...] = ()
    nameless: bool = False

    def attribute(self, key: str) -> str | None:
        """The first value of a registration attribute, or None."""
        return next((value for name, value in self.attributes if name == key), None)

    def values(self, key: str) -> tuple[str, ...]:
        """All values of a registration attribute, in order."""
        return tuple(value for name, value in self.attributes if name == key)


class Claim(Protocol):
    """Something that can be had once and is spent on one certificate: an enrolment code, an officer's approval."""

    def take(self, connection: Connection, certificate_id: int) -> None:
        """Spend it, in the transaction that makes the certificate's intent durable.

        Raises:
            Rejected: it has been spent already, or its time is over.
        """

    def give_back(self, connection: Connection, certificate_id: int) -> None:
        """Undo :meth:`take` where no certificate came of it, in the write that gives the certificate up."""


@attrs.frozen
class Authorised:
    """A request that the gate said yes to. Only ``pkiserver.registration.gate`` makes one.

    ``decided_by`` says which rule or which officer decided, for the audit log; ``claims`` are spent on the certificate.
    """

    request: EnrollmentRequest
    record: RegistrationRecord
    decided_by: str
    claims: tuple[Claim, ...] = ()


@attrs.frozen
class PreparedCertificate:
    """A one-use token: serial and intent are durable in the store, nothing is signed yet.

    The store, not this value, enforces the single use: the row ``certificate_id`` leaves state *prepared* once. Where
    its signature was asked for with its intent, this process's issuer takes it once, and the row leaves *asked* once.
    ``tbs`` is the DER TBSCertificate, ``scheme`` the name of the issuer's signature scheme, ``issuer_key`` the key that
    the signature must verify with. ``supersedes`` are certificates that are revoked when this one is stored,
    ``replaces`` the one that it renews; both by their numbers in the store. ``decided_by`` is the order's; ``claims``
    are given back if it is given up. ``is_rivalled`` says in the write that is to store it whether another process made
    one that it may not stand beside.
    """

    certificate_id: int
    authority: str
    generation_id: int
    key_name: str
    scheme: str
    serial: int
    tbs: bytes = attrs.field(repr=False)
    issuer_key: CertificateIssuerPublicKeyTypes = attrs.field(repr=False)
    chain: tuple[bytes, ...] = attrs.field(repr=False)
    template: str
    requester: str
    protocol: str
    request_id: str
    subject: str
    warnings: tuple[str, ...] = ()
    supersedes: tuple[int, ...] = ()
    replaces: int | None = None
    decided_by: str = ""
    claims: tuple[Claim, ...] = attrs.field(default=(), repr=False)
    is_rivalled: Callable[[Connection], bool] = attrs.field(default=lambda _connection: False, repr=False)


@attrs.frozen
class IssuedCertificate:
    """A certificate that the store knows. ``chain`` is DER, issuer first, root last, without ``der`` itself.

    ``warnings`` are about the certificate, ``notes`` for the person who asked for it.
    """

    certificate_id: int
    der: bytes = attrs.field(repr=False)
    serial: int
    chain: tuple[bytes, ...] = attrs.field(repr=False)
    authority: str
    template: str
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
