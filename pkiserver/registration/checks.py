"""What is looked at before anybody decides: what a request would bring, as far as can be known by then."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509

from pkiserver.authority.authorities import Authorities
from pkiserver.authority.checks.keycheck import check_key
from pkiserver.authority.requests import Authorised, EnrollmentRequest
from pkiserver.authority.templates.build import CertificateContent, build_content
from pkiserver.authority.templates.model import Template
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.extensionvalue import value_among
from pkiserver.keys.algorithms import KeyType
from pkiserver.store.names import sans_of


def check_request(authorities: Authorities, template: Template, asked: Authorised, now: datetime) -> tuple[str, ...]:
    """The results, a line each; nothing is stored and nothing signed.

    Duplicates and blocked keys are looked up when the certificate is made: they depend on the moment.

    Raises:
        Rejected: no officer's yes would bring a certificate; with every reason, so that the client learns them at once.
    """
    reasons: list[Reason] = list(check_key(asked.request.public_key))
    content = None
    try:
        content = content_to_be(authorities, template, asked, now)
    except Rejected as error:
        reasons = [*error.reasons, *reasons]
    if reasons or content is None:
        raise Rejected(reasons)
    return _lines(asked, content)


def content_to_be(authorities: Authorities, template: Template, asked: Authorised, now: datetime) -> CertificateContent:
    """What the certificate would say, were it made now; raises :class:`Rejected` with the template's reasons."""
    authority = authorities.get(template.issuer)
    return build_content(template, asked, authorities.view(authority, authority.current), now)


def _lines(asked: Authorised, content: CertificateContent) -> tuple[str, ...]:
    names = value_among(content.extensions, x509.SubjectAlternativeName) or ()
    shown = ", ".join(f"{san.kind}:{san.value}" for san in sans_of(names))
    proof = asked.request.proof
    return (
        f"key: {KeyType.of(asked.request.public_key)}, possession shown by {proof.kind}",
        f"subject: {content.subject.rfc4514_string() or 'empty'}",
        f"names: {shown or 'none'}",
        f"validity: until {content.not_after:%Y-%m-%d %H:%M:%SZ} if it were issued now",
        *(f"left out: {text}" for text in content.ignored),
    )


def general_reasons(template: Template, request: EnrollmentRequest) -> list[Reason]:
    """What stands against a request whoever asks."""
    reasons = []
    if not template.enabled:
        reasons.append(Reason(Refusal.NOT_AUTHORISED, f"template {template.name} is switched off"))
    if not template.allows(request.protocol):
        text = f"template {template.name} does not allow {request.protocol}"
        reasons.append(Reason(Refusal.NOT_AUTHORISED, text))
    if not request.proof.verified:
        text = "possession of the private key was not proved"
        reasons.append(Reason(Refusal.BAD_PROOF, text))
    return reasons
