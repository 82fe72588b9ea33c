"""Authorities and their key generations as frozen values; what the database holds, decoded once."""

from __future__ import annotations

import enum
from datetime import datetime

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from pkiserver.authority import certparts
from pkiserver.authority.extensions import issuer_key_identifier
from pkiserver.authority.requests import spki_der
from pkiserver.authority.settings import AuthoritySettings
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.foundation.unreadable import UNREADABLE
from pkiserver.keys.algorithms import SignatureScheme
from pkiserver.store.authority.authorities import Generation as GenerationRow
from pkiserver.store.authority.authorities import GenerationState

__all__ = ["Authority", "CaCertificate", "Duty", "Generation", "GenerationState"]


class Duty(enum.StrEnum):
    """What a CA certificate lets its key sign (RFC 5280 section 4.2.1.3)."""

    CERTIFICATES = "certificates"
    CRLS = "crls"


@attrs.frozen
class CaCertificate:
    """A CA certificate with what is asked of it often. ``subject_der`` is octet for octet as it stands in it."""

    der: bytes = attrs.field(repr=False)
    certificate: x509.Certificate
    subject_der: bytes = attrs.field(repr=False)
    issuer_der: bytes = attrs.field(repr=False)
    spki: bytes = attrs.field(repr=False)
    key_identifier: bytes
    duties: frozenset[Duty]
    path_length: int | None

    @classmethod
    def load(cls, data: bytes) -> CaCertificate:
        """From DER; raises :class:`Rejected` when it is not a CA's certificate (RFC 5280 section 4.2.1.9)."""
        try:
            certificate = x509.load_der_x509_certificate(data)
            constraints = extension_value(certificate, x509.BasicConstraints)
            spki = spki_der(certificate.public_key())
        except UNREADABLE as error:
            raise Rejected.because(Refusal.MALFORMED, f"not a usable certificate: {error}") from error
        if constraints is None or not constraints.ca:
            raise Rejected.because(Refusal.CONFIGURATION, "the certificate is not a CA's: basicConstraints lack cA")
        return cls(
            der=data,
            certificate=certificate,
            subject_der=certparts.subject_octets(data),
            issuer_der=certparts.issuer_octets(data),
            spki=spki,
            key_identifier=issuer_key_identifier(certificate),
            duties=_duties(certificate),
            path_length=constraints.path_length,
        )

    @property
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same octets."""
        return self.subject_der == self.issuer_der

    @property
    def not_after(self) -> datetime:
        """The last instant of its validity, aware UTC."""
        return self.certificate.not_valid_after_utc

    def signed_by(self, issuer: CaCertificate) -> bool:
        """Whether names chain and the signature verifies with the issuer's key."""
        return issuer.has_issued(self.der)

    def has_issued(self, certificate: bytes) -> bool:
        """Whether a certificate (DER, whosever) names this one as its issuer, and this one's key signed it.

        Raises:
            ValueError: it is no certificate.
        """
        if certparts.issuer_octets(certificate) != self.subject_der:
            return False
        parsed = x509.load_der_x509_certificate(certificate)
        try:
            scheme = SignatureScheme.of_identifier(certparts.signature_identifier(certificate))
        except Rejected:
            return False
        return scheme.verify(self.certificate.public_key(), parsed.signature, parsed.tbs_certificate_bytes)

    def pem(self) -> str:
        """The certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


def _duties(certificate: x509.Certificate) -> frozenset[Duty]:
    usage = extension_value(certificate, x509.KeyUsage)
    if usage is None:
        return frozenset(Duty)  # RFC 5280 section 4.2.1.3: without the extension nothing is restricted
    duties = set()
    if usage.key_cert_sign:
        duties.add(Duty.CERTIFICATES)
    if usage.crl_sign:
        duties.add(Duty.CRLS)
    return frozenset(duties)


@attrs.frozen
class Generation:
    """One key of an authority with its certificate.

    ``key_name`` is None where the key is absent (offline). ``stored_chain`` is DER, issuer first, as it was when the
    certificate came in. ``crl_path`` is this generation's own part of distribution point URLs.
    """

    id: int
    authority: str
    number: int
    state: GenerationState
    ca: CaCertificate | None
    key_name: str | None
    stored_chain: tuple[bytes, ...] = attrs.field(repr=False)
    crl_path: str
    new_with_old: bytes | None = attrs.field(default=None, repr=False)
    old_with_new: bytes | None = attrs.field(default=None, repr=False)

    @classmethod
    def load(cls, row: GenerationRow) -> Generation:
        """From its row; raises :class:`Rejected` when the certificate in it is not a CA's."""
        return cls(
            id=row.id,
            authority=row.authority,
            number=row.number,
            state=row.state,
            ca=None if row.certificate is None else CaCertificate.load(row.certificate),
            key_name=row.key_name,
            stored_chain=row.chain,
            crl_path=row.crl_path or f"{row.authority}-{row.number}",
            new_with_old=row.new_with_old,
            old_with_new=row.old_with_new,
        )

    @property
    def duties(self) -> frozenset[Duty]:
        """What its key may sign; nothing without a certificate."""
        return self.ca.duties if self.ca else frozenset()

    @property
    def certificate(self) -> CaCertificate:
        """Its certificate; raises :class:`Rejected` while it has none."""
        if self.ca is None:
            raise Rejected.because(
                Refusal.CONFIGURATION, f"authority {self.authority} has no certificate yet: install the signed answer"
            )
        return self.ca


@attrs.frozen
class Authority:
    """An authority: one DN, one or more key generations, newest last."""

    name: str
    issuer_id: int
    subject_der: bytes = attrs.field(repr=False)
    settings: AuthoritySettings
    generations: tuple[Generation, ...]

    @property
    def subject(self) -> x509.Name:
        """The DN, decoded."""
        return x509.Name.from_bytes(self.subject_der)

    @property
    def current(self) -> Generation:
        """The generation that issues; raises :class:`Rejected` when none is active yet."""
        active = [generation for generation in self.generations if generation.state is GenerationState.ACTIVE]
        if not active:
            raise Rejected.because(
                Refusal.CONFIGURATION, f"authority {self.name} has no certificate yet: install the signed answer"
            )
        return active[-1]

    @property
    def pending(self) -> Generation | None:
        """The generation that waits for its certificate, if any."""
        waiting = [generation for generation in self.generations if generation.state is GenerationState.PENDING]
        return waiting[-1] if waiting else None

    def scheme(self, generation: Generation) -> SignatureScheme:
        """The scheme that a generation signs with; raises :class:`Rejected` when the set one does not suit its key."""
        public_key = generation.certificate.certificate.public_key()
        if not self.settings.scheme:
            return SignatureScheme.default_for(public_key)
        return SignatureScheme.parse(self.settings.scheme).require(public_key)
