"""CA certificates on the one road: how an authority's own certificates are made and checked."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from pkiserver.authority.authorities import MAXIMUM_CHAIN, Issuing
from pkiserver.authority.extensions import extension, subject_key_identifier
from pkiserver.authority.issue import Also, Issuer
from pkiserver.authority.lifecycle.profile import CaContent
from pkiserver.authority.model import Authority, CaCertificate, Generation
from pkiserver.authority.order import Order
from pkiserver.authority.prepare import Preparer
from pkiserver.authority.requests import IssuedCertificate, spki_der
from pkiserver.authority.templates.build import IssuerView
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.keys.algorithms import SignatureScheme, load_spki

CA_CERTIFICATE = "ca-certificate"
"""Stands in the store where an end entity's certificate has its template."""
LINK_CERTIFICATE = "ca-link"

_MADE_ANEW = frozenset(
    (
        x509.AuthorityKeyIdentifier.oid,
        x509.SubjectKeyIdentifier.oid,
        x509.CRLDistributionPoints.oid,
        x509.FreshestCRL.oid,
        x509.AuthorityInformationAccess.oid,
    )
)


@attrs.frozen
class Subject:
    """Whom a CA certificate is for. ``name_der`` is the DN octet for octet."""

    name: x509.Name
    name_der: bytes = attrs.field(repr=False)
    public_key: CertificatePublicKeyTypes

    @classmethod
    def of(cls, ca: CaCertificate, public_key: CertificatePublicKeyTypes | None = None) -> Subject:
        """The subject of a certificate, with its own key or another."""
        return cls(ca.certificate.subject, ca.subject_der, public_key or load_spki(ca.spki))


@attrs.frozen
class Actor:
    """Who wants it, for the audit log, and the request it came with."""

    name: str
    request_id: str = ""


class Certifier:
    """Takes CA certificates down the road: prepared, linted, durable, signed, compared, stored, audited."""

    def __init__(self, preparer: Preparer, issuer: Issuer) -> None:
        self._preparer = preparer
        self._issuer = issuer

    async def certify(
        self,
        issuing: Issuing,
        subject: Subject,
        content: CaContent,
        actor: Actor,
        *,
        label: str = CA_CERTIFICATE,
        also: Also | None = None,
    ) -> IssuedCertificate:
        """One certificate; ``also`` becomes durable with it.

        Raises:
            Rejected: a bad key, or findings of the linter.
            Unavailable: the key or the database is away.
        """
        order = Order(
            issuing=issuing,
            subject=subject.name,
            subject_der=subject.name_der,
            public_key=subject.public_key,
            not_before=content.not_before,
            not_after=content.not_after,
            extensions=content.extensions,
            template=label,
            requester=actor.name,
            protocol="internal",
            request_id=actor.request_id,
            own_key=True,
        )
        return await self._issuer.issue(await self._preparer.prepare_order(order), also=also)


def issuing_self(authority: Authority, generation: Generation, public_key: CertificatePublicKeyTypes) -> Issuing:
    """A root that signs its own certificate with a key that has none yet."""
    assert generation.key_name is not None
    key = load_spki(spki_der(public_key))
    scheme = authority.settings.scheme
    return Issuing(
        authority=authority.name,
        issuer_id=authority.issuer_id,
        generation_id=generation.id,
        key_name=generation.key_name,
        scheme=SignatureScheme.parse(scheme).require(key) if scheme else SignatureScheme.default_for(key),
        name=authority.subject,
        name_der=authority.subject_der,
        public_key=key,
        certificate=None,
        chain=(),
    )


def content_like(
    ca: CaCertificate, subject: Subject, issuer: IssuerView | None, not_before: datetime, not_after: datetime
) -> CaContent:
    """The content of a certificate that says what ``ca`` says, by this issuer (None: self-signed), for this key.

    What names the issuer is the issuer's; the subject key identifier is kept with the key and made anew for another.
    A validity that would pass the issuer's is cut.

    Raises:
        Rejected: nothing is left of the validity then.
    """
    same_key = load_spki(ca.spki) == subject.public_key
    own = ca.key_identifier if same_key else subject_key_identifier(subject.public_key).digest
    kept = [one for one in ca.certificate.extensions if one.oid not in _MADE_ANEW]
    kept.append(extension(x509.SubjectKeyIdentifier(own)))
    if issuer is None:
        kept.append(extension(x509.AuthorityKeyIdentifier(own, None, None)))
    else:
        kept.append(issuer.authority_key_identifier)
        kept += issuer.url_extensions(crl=True, ocsp=True, ca_issuers=True)
        not_after = min(not_after, issuer.not_after)
    if not_after <= not_before:
        raise Rejected.because(Refusal.BAD_VALIDITY, "the validity would end before it begins")
    return CaContent(not_before, not_after, tuple(kept))


def check_answer(
    ca: CaCertificate, subject_der: bytes, spki: bytes, above: Iterable[CaCertificate], now: datetime
) -> tuple[CaCertificate, ...]:
    """What is above a certificate that another CA issued to one of ours, in order, root last.

    Raises:
        Rejected: with every reason: another key, another DN, expired, or a chain that does not reach a root.
    """
    reasons = []
    if ca.spki != spki:
        reasons.append(Reason(Refusal.CONFLICT, "the certificate is for another key than the authority's"))
    if ca.subject_der != subject_der:
        text = (
            f"the certificate's subject is {ca.certificate.subject.rfc4514_string()!r} in other octets than the "
            "authority's: import it with its key as an authority of its own"
        )
        reasons.append(Reason(Refusal.CONFLICT, text))
    if ca.not_after <= now:
        reasons.append(Reason(Refusal.BAD_VALIDITY, f"the certificate expired at {ca.not_after:%Y-%m-%d %H:%M:%SZ}"))
    try:
        chain = ordered_chain(ca, above)
    except Rejected as error:
        reasons += error.reasons
    if reasons:
        raise Rejected(reasons)
    return chain


def ordered_chain(ca: CaCertificate, above: Iterable[CaCertificate]) -> tuple[CaCertificate, ...]:
    """The path from a certificate's issuer to a self-signed root, out of a heap of certificates.

    Raises:
        Rejected: the path is not there whole, a signature in it does not verify, or one above has ended its duty.
    """
    heap = list(above)
    path: list[CaCertificate] = []
    last = ca
    while not (last.self_issued and last.signed_by(last)):
        found = next((one for one in heap if one.spki != last.spki and last.signed_by(one)), None)
        if found is None or len(path) >= MAXIMUM_CHAIN:
            issuer = last.certificate.issuer.rfc4514_string()
            raise Rejected.because(
                Refusal.CONFIGURATION, f"the chain does not reach a root: the certificate of {issuer!r} is missing"
            )
        path.append(found)
        last = found
    return tuple(path)
