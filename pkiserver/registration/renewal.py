"""Whether a certificate may be renewed by showing it (RFC 7030 section 4.2.2). Pure: values in, reasons out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from cryptography import x509

from pkiserver.authority.requests import ClientCertificateEvidence, EnrollmentRequest
from pkiserver.authority.templates.model import INTERNAL, EvidenceKind, KeyReuse, Template
from pkiserver.authority.templates.model_names import OtherWishes
from pkiserver.foundation.decoded import decoded
from pkiserver.foundation.errors import Reason, Refusal
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.store.certificates import Certificate, CertificateState, RevocationReason

_SCEP = "scep"
_CERTIFICATE = EvidenceKind.CLIENT_CERTIFICATE


def shows(request: EnrollmentRequest) -> bool:
    """Whether the certificate to be renewed is also the one whose key the client proved to hold."""
    return any(
        isinstance(one, ClientCertificateEvidence) and one.certificate == request.renewal_of for one in request.evidence
    )


def reasons_against(
    request: EnrollmentRequest, template: Template, current: Certificate | None, now: datetime
) -> tuple[Reason, ...]:
    """Every reason why ``current`` (the store's record of ``request.renewal_of``) may not be renewed now."""
    if current is None or current.der != request.renewal_of:
        return (Reason(Refusal.UNKNOWN_CERTIFICATE, "the certificate to be renewed was not issued here"),)
    reasons = [*_standing(template, current, now), *_sameness(request, template, current)]
    if not shows(request):
        text = "a renewal is authenticated with the certificate that is to be renewed"
        reasons.append(Reason(Refusal.NOT_AUTHENTICATED, text))
    return tuple(reasons)


def is_named(template: Template, connector: str) -> bool:
    """Whether a rule of the template names a connector."""
    return any(connector in rule.connectors for rule in template.evidence)


def vouching_problem(template: Template, connector: str) -> Reason | None:
    """Why a connector's word does not count for renewals any more.

    Where a rule takes a certificate of this server for its holder, who was shown to another template may have come by
    that: there no connector need be named.
    """
    if template.renewal.connectors == "any" or is_named(template, connector):
        return None
    if any(rule.all[0] is _CERTIFICATE and INTERNAL in rule.accepted_from for rule in template.evidence):
        return None
    text = f"connector {connector}, which has shown the holder, does not count for template {template.name} any more"
    return Reason(Refusal.NOT_AUTHORISED, text)


def was_answered(
    request: EnrollmentRequest,
    current: Certificate | None,
    successor: Certificate | None,
    reasons: Sequence[Reason],
    now: datetime,
) -> bool:
    """Whether the same renewal came before and brought ``successor``, so that nothing but that stands against it now.

    The client whose answer was lost has no other certificate to show than the one that was revoked as superseded.
    """
    revocation = None if current is None else current.revocation
    if successor is None or revocation is None or revocation.reason is not RevocationReason.SUPERSEDED:
        return False
    if {reason.code for reason in reasons} != {Refusal.REVOKED}:
        return False
    same_key = successor.spki_sha256 == hashlib.sha256(request.spki).digest()
    return same_key and successor.state is CertificateState.ISSUED and now <= successor.not_after


def _standing(template: Template, current: Certificate, now: datetime) -> list[Reason]:
    rules = template.renewal
    reasons = []
    if not rules.allowed:
        reasons.append(Reason(Refusal.NOT_AUTHORISED, f"template {template.name} does not allow renewal"))
    if current.template != template.name:
        text = f"the certificate is of template {current.template}, not {template.name}"
        reasons.append(Reason(Refusal.NOT_AUTHORISED, text))
    if current.state is not CertificateState.ISSUED:
        text = {CertificateState.HELD: "on hold", CertificateState.REVOKED: "revoked"}.get(current.state, "not valid")
        reasons.append(Reason(Refusal.REVOKED, f"the certificate to be renewed is {text}"))
    if now > current.not_after + rules.grace:
        reasons.append(Reason(Refusal.OUTSIDE_WINDOW, "the certificate to be renewed has expired"))
    elif not reasons and now < (opens := current.not_after - rules.window):
        text = f"the certificate can be renewed from {opens:%Y-%m-%dT%H:%M:%SZ} on"
        reasons.append(Reason(Refusal.OUTSIDE_WINDOW, text))
    return reasons


def _sameness(request: EnrollmentRequest, template: Template, current: Certificate) -> list[Reason]:
    """Subject and subject alternative names are the current ones, and the certificate gets no others.

    EST wants them identical (RFC 7030 section 4.2.2). SCEP says nothing, and devices make each request from the same
    settings: what the template left out of the first certificate (``others = "ignore"``) is there again, and left out
    again.
    """
    assert current.der is not None
    old = decoded(current.der)
    reasons = []
    more = request.protocol == _SCEP
    if not _same_subject(request.wishes.subject, old.subject, more=more and _ignores(template.subject.others)):
        reasons.append(Reason(Refusal.BAD_SUBJECT, "the subject differs from the certificate's that is to be renewed"))
    wished, names = set(request.wishes.sans), set(names_of(old))
    if wished != names and not (more and _ignores(template.sans.others) and names <= wished):
        text = "the subject alternative names differ from those of the certificate that is to be renewed"
        reasons.append(Reason(Refusal.BAD_NAME, text))
    same_key = hashlib.sha256(request.spki).digest() == current.spki_sha256
    if same_key and template.renewal.same_key is KeyReuse.REFUSE:
        reasons.append(Reason(Refusal.BAD_KEY, f"template {template.name} wants a new key at renewal"))
    return reasons


def _ignores(others: OtherWishes) -> bool:
    return others is OtherWishes.IGNORE


def _same_subject(wished: x509.Name | None, old: x509.Name, *, more: bool) -> bool:
    """Whether a request asks for the old subject; with ``more``, for whatever else besides."""
    if wished == old:
        return True
    return more and wished is not None and not Counter(old) - Counter(wished)


def names_of(certificate: x509.Certificate) -> tuple[x509.GeneralName, ...]:
    """The subject alternative names of a certificate; empty where it has none.

    Raises:
        ValueError: its extensions cannot be read.
    """
    found = extension_value(certificate, x509.SubjectAlternativeName)
    return () if found is None else tuple(found)
