"""Trying a request: what would be issued and every reason why not, without a trace in the store and without a key."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

import attrs
from cryptography import x509

from pkiserver.authority.checks.keycheck import check_key
from pkiserver.authority.extensions import Extension
from pkiserver.authority.requests import Authorised, EnrollmentRequest, RegistrationRecord
from pkiserver.authority.tbs import build_draft, random_serial
from pkiserver.authority.templates.build import CertificateContent, build_content
from pkiserver.authority.templates.model import LegacyAlgorithm, Template
from pkiserver.authority.templates.usages import NAME_OF_USAGE, Usage
from pkiserver.foundation.errors import Reason, Rejected

if TYPE_CHECKING:
    from pkiserver.authority.authorities import Authorities
    from pkiserver.authority.csr import ParsedRequest


@attrs.frozen
class Trial:
    """``certificate`` describes what would be issued, for people; it is empty where nothing would be."""

    certificate: dict[str, object]
    reasons: tuple[Reason, ...]
    ignored: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def try_request(
    template: Template,
    request: ParsedRequest,
    record: RegistrationRecord,
    *,
    protocol: str,
    authorities: Authorities,
    now: datetime,
) -> Trial:
    """What a PKCS#10 request would get from a template (in force or not), as far as it can be known beforehand.

    Duplicates and blocked keys are not looked up: they depend on the moment.

    Raises:
        Rejected: the template's issuer does not exist.
    """
    authority = authorities.get(template.issuer)
    view = authorities.view(authority, authority.current, template=template.name, ca=template.ca is not None)
    issuing = authorities.issuing_by(authority, authority.current)
    asked = EnrollmentRequest(
        template=template.name,
        public_key=request.public_key,
        spki=request.spki,
        proof=request.proof,
        wishes=request.wishes,
        evidence=(),
        protocol=protocol,
        source="trial",
        request_id="trial",
        csr=request.der,
    )
    reasons = (*_old_digest(template, request), *check_key(request.public_key))
    try:
        content = build_content(template, Authorised(asked, record, "trial"), view, now)
        draft = build_draft(
            issuer_der=issuing.name_der,
            subject=content.subject,
            public_key=request.public_key,
            serial=random_serial(secrets.token_bytes),
            not_before=content.not_before,
            not_after=content.not_after,
            extensions=content.extensions,
            scheme=issuing.scheme,
        )
    except Rejected as error:
        return Trial({}, (*error.reasons, *reasons))
    from pkiserver.authority.checks.lint import Linter

    refused, warnings = Linter().check(draft.sample, template.lint)
    return Trial(describe(content), (*reasons, *refused), content.ignored, warnings)


def _old_digest(template: Template, request: ParsedRequest) -> Iterable[Reason]:
    """Only SCEP may take such requests; those of other protocols are refused as they are read."""
    if request.old_digest is not None:
        refusal = template.refusal_of(LegacyAlgorithm(request.old_digest.value))
        if refusal is not None:
            yield refusal


def describe(content: CertificateContent) -> dict[str, object]:
    """Content in words, field by field and extension by extension."""
    return {
        "subject": content.subject.rfc4514_string(),
        "not_before": content.not_before,
        "not_after": content.not_after,
        **{_title(item): _text(item.value) + (" (critical)" if item.critical else "") for item in content.extensions},
    }


def _title(extension: Extension) -> str:
    name = extension.oid._name  # noqa: SLF001 - the library names the OIDs it knows only there
    return extension.oid.dotted_string if name == "Unknown OID" else name


def _text(value: x509.ExtensionType) -> str:
    if isinstance(value, x509.BasicConstraints):
        return f"CA, path length {value.path_length}" if value.ca else "not a CA"
    if isinstance(value, x509.KeyUsage):
        return ", ".join(usage for usage in Usage if _has(value, usage))
    if isinstance(value, x509.ExtendedKeyUsage):
        return ", ".join(NAME_OF_USAGE.get(oid.dotted_string, oid.dotted_string) for oid in value)
    if isinstance(value, x509.SubjectAlternativeName):
        return ", ".join(_name(name) for name in value)
    if isinstance(value, x509.SubjectKeyIdentifier):
        return value.digest.hex()
    return _issuers_text(value)


def _issuers_text(value: x509.ExtensionType) -> str:
    if isinstance(value, x509.AuthorityKeyIdentifier):
        return (value.key_identifier or b"").hex()
    if isinstance(value, x509.CRLDistributionPoints):
        return ", ".join(_name(name) for point in value for name in point.full_name or ())
    if isinstance(value, x509.AuthorityInformationAccess):
        return ", ".join(_name(item.access_location) for item in value)
    if isinstance(value, x509.CertificatePolicies):
        return ", ".join(item.policy_identifier.dotted_string for item in value)
    if isinstance(value, x509.OCSPNoCheck):
        return "yes"
    return value.value.hex() if isinstance(value, x509.UnrecognizedExtension) else value.public_bytes().hex()


def _has(value: x509.KeyUsage, usage: Usage) -> bool:
    if usage in {Usage.ENCIPHER_ONLY, Usage.DECIPHER_ONLY} and not value.key_agreement:
        return False  # the library refuses to be asked
    return bool(getattr(value, usage))


def _name(name: x509.GeneralName) -> str:
    from pkiserver.authority.templates.context import AskedName

    asked = AskedName.of(name)
    return asked.text if asked.kind in {"uri", None} else f"{asked.kind}:{asked.text}"
