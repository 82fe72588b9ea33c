"""From a template and an authorised request to the content of one certificate: the whole of it but serial and issuer.

What does not depend on the request is made once per template (:class:`CompiledTemplate`) or issuer
(:class:`IssuerView`).
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache

import attrs
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID as Access

from pkiserver.authority import certparts
from pkiserver.authority.extensions import Extension, extended_key_usage, extension, issuer_key_identifier, key_usage
from pkiserver.authority.requests import Authorised
from pkiserver.authority.templates.context import Context
from pkiserver.authority.templates.extensions import account_sid, key_usages, static_extensions
from pkiserver.authority.templates.model import Template
from pkiserver.authority.templates.requested import Granted, RequestedExtensions
from pkiserver.authority.templates.sans import SanCompiler
from pkiserver.authority.templates.subject import SubjectCompiler
from pkiserver.authority.templates.usages import Capability, Usage, capability
from pkiserver.authority.templates.validity import validity
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.keys.algorithms import KeyType


def _points(points: tuple[tuple[str, ...], ...]) -> list[x509.DistributionPoint]:
    """Distribution points, each with the URLs under which the same list is found (RFC 5280 section 4.2.1.13)."""
    return [
        x509.DistributionPoint([x509.UniformResourceIdentifier(url) for url in urls], None, None, None)
        for urls in points
    ]


@attrs.frozen(eq=False)
class IssuerView:
    """What content needs to know of an issuer: keep one per key generation (or CRL shard), it holds made extensions.

    ``crl_points`` are the distribution points that certificates name, ``delta_points`` those of their deltas, each with
    all its URLs.

    The authority key identifier is the issuer certificate's subject key identifier, octet for octet; where it has
    none it is computed by RFC 7093 section 2 method 1.
    """

    name: str
    certificate: x509.Certificate
    crl_points: tuple[tuple[str, ...], ...] = ()
    ocsp_urls: tuple[str, ...] = ()
    ca_issuer_urls: tuple[str, ...] = ()
    delta_points: tuple[tuple[str, ...], ...] = ()
    not_before: datetime = attrs.field(init=False)
    not_after: datetime = attrs.field(init=False)
    path_length: int | None = attrs.field(init=False)
    key_identifier: bytes = attrs.field(init=False)
    authority_key_identifier: Extension = attrs.field(init=False)
    _url_extensions: dict[tuple[bool, bool, bool], tuple[Extension, ...]] = attrs.field(init=False, factory=dict)

    @property
    def crl_urls(self) -> tuple[str, ...]:
        """The URLs of all distribution points."""
        return tuple(url for urls in self.crl_points for url in urls)

    @not_before.default
    def _not_before(self) -> datetime:
        return self.certificate.not_valid_before_utc

    @not_after.default
    def _not_after(self) -> datetime:
        return self.certificate.not_valid_after_utc

    @path_length.default
    def _path_length(self) -> int | None:
        constraints = extension_value(self.certificate, x509.BasicConstraints)
        return None if constraints is None else constraints.path_length

    @key_identifier.default
    def _key_identifier(self) -> bytes:
        return issuer_key_identifier(self.certificate)

    @authority_key_identifier.default
    def _authority_key_identifier(self) -> Extension:
        return extension(x509.AuthorityKeyIdentifier(self.key_identifier, None, None))

    def url_extensions(self, *, crl: bool, ocsp: bool, ca_issuers: bool) -> tuple[Extension, ...]:
        """CRL distribution points and authority information access with the URLs that are on."""
        key = (crl, ocsp, ca_issuers)
        if key not in self._url_extensions:
            self._url_extensions[key] = self._make_url_extensions(*key)
        return self._url_extensions[key]

    def _make_url_extensions(self, crl: bool, ocsp: bool, ca_issuers: bool) -> tuple[Extension, ...]:
        found: list[Extension] = []
        if crl and self.crl_points:
            found.append(extension(x509.CRLDistributionPoints(_points(self.crl_points))))
        if crl and self.delta_points:
            found.append(extension(x509.FreshestCRL(_points(self.delta_points))))
        pairs = [(Access.OCSP, url) for url in self.ocsp_urls if ocsp]
        pairs += [(Access.CA_ISSUERS, url) for url in self.ca_issuer_urls if ca_issuers]
        if pairs:
            items = [x509.AccessDescription(oid, x509.UniformResourceIdentifier(url)) for oid, url in pairs]
            found.append(extension(x509.AuthorityInformationAccess(items)))
        return tuple(found)


@attrs.frozen
class CertificateContent:
    """Subject, names, all extensions (key identifiers included) and validity of a certificate to be.

    ``sans`` are the names inside the subject alternative name extension, for the store; times are aware UTC in whole
    seconds; ``ignored`` says in words what was asked for and left out.
    """

    subject: x509.Name
    sans: tuple[x509.GeneralName, ...]
    extensions: tuple[Extension, ...]
    not_before: datetime
    not_after: datetime
    ignored: tuple[str, ...] = ()


class CompiledTemplate:
    """A template revision with everything made that no request changes."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self._keys = {str(key): capability(key) for key in template.keys}
        consumed = _consumed(template)
        self._subject = SubjectCompiler(template.subject, consumed)
        self._sans = SanCompiler(template.sans, consumed)
        rules = template.extended_key_usage
        self._purposes = tuple(usage.oid for usage in rules.usages) if rules else ()
        self._purposes_extension = (
            extended_key_usage(self._purposes, critical=rules.critical) if rules and self._purposes else None
        )
        self._usages: dict[Capability, tuple[frozenset[Usage], Extension | None]] = {
            kind: (frozenset(), None) for kind in Capability
        }
        if template.key_usage is not None:
            critical = template.key_usage.critical
            for kind, usages in key_usages(template.key_usage).items():
                self._usages[kind] = (usages, key_usage(usages, critical=critical) if usages else None)
        self._requested = RequestedExtensions(template.request_extensions, rules)
        self._static = static_extensions(template)

    def build(self, authorised: Authorised, issuer: IssuerView, now: datetime) -> CertificateContent:
        """The content of one certificate; see :func:`build_content`."""
        template, request = self.template, authorised.request
        context = Context.of(authorised, template.sans.max)
        self._check_way(context, request.protocol)
        kind = self._check_key(context, authorised)
        found = self._sans.collect(context)
        subject = self._subject.build(context, found.first)
        sans = self._sans.finish(context, found, subject)
        if not subject.rdns and not sans and not context.reasons:
            context.refuse(Refusal.BAD_SUBJECT, "neither a subject nor an alternative name")
        start, end = validity(template.validity, context, now, issuer.not_before, issuer.not_after)
        extensions = self._extensions(context, kind, issuer)
        if template.validity.private_key_usage is not None and start < end:
            until = min(start + template.validity.private_key_usage, end)
            extensions.append(extension(x509.PrivateKeyUsagePeriod(start, until)))
        if sans:
            extensions.append(extension(x509.SubjectAlternativeName(sans), critical=not subject.rdns))
        extensions.append(extension(x509.SubjectKeyIdentifier(certparts.key_identifier(request.spki))))
        if context.dropped:
            context.reasons.append(context.reasons[-1].__class__(Refusal.LIMIT, f"and {context.dropped} more reasons"))
        if context.reasons:
            raise Rejected(context.reasons)
        return CertificateContent(subject, sans, tuple(extensions), start, end, tuple(context.ignored))

    def _check_way(self, context: Context, protocol: str) -> None:
        name = self.template.name
        if not self.template.enabled:
            context.refuse(Refusal.NOT_AUTHORISED, f"template {name} is switched off")
        if not self.template.allows(protocol):
            context.refuse(Refusal.NOT_AUTHORISED, f"template {name} takes no requests by {protocol}")

    def _check_key(self, context: Context, authorised: Authorised) -> Capability:
        try:
            label = str(KeyType.of(authorised.request.public_key))
        except Rejected as refusal:
            for reason in refusal.reasons:
                context.refuse(reason.code, reason.text)
            return Capability.SIGNING
        if label not in self._keys:
            allowed = ", ".join(self._keys)
            context.refuse(Refusal.BAD_KEY, f"an {label} key is not allowed (allowed: {allowed})")
        return self._keys.get(label, Capability.SIGNING)

    def _extensions(self, context: Context, kind: Capability, issuer: IssuerView) -> list[Extension]:
        template = self.template
        usages, usage_extension = self._usages[kind]
        extensions = list(self._static)
        if template.ca is not None:
            extensions.insert(0, _basic_constraints(context, template.ca.path_length, issuer))
        if usage_extension is not None:
            extensions.append(usage_extension)
        if context.wishes.extensions:
            taken, purposes = self._requested.apply(context, Granted(usages, self._purposes))
            extensions += taken
        else:
            purposes = self._purposes
        if purposes == self._purposes:
            if self._purposes_extension is not None:
                extensions.append(self._purposes_extension)
        elif template.extended_key_usage is not None:
            extensions.append(extended_key_usage(purposes, critical=template.extended_key_usage.critical))
        if template.microsoft is not None and (sid := account_sid(template.microsoft, context)) is not None:
            extensions.append(sid)
        extensions.append(issuer.authority_key_identifier)
        urls = template.urls
        extensions += issuer.url_extensions(crl=urls.crl, ocsp=urls.ocsp, ca_issuers=urls.ca_issuers)
        return extensions


def _consumed(template: Template) -> frozenset[str]:
    """What of the request the template's variables use."""
    texts = [part.value for part in template.subject.parts if part.value is not None]
    texts += [value for part in template.sans.parts for value in part.values]
    return frozenset(v.name for text in texts for v in text.variables if v.scope == "request")


def _basic_constraints(context: Context, wanted: int | None, issuer: IssuerView) -> Extension:
    """A CA's basic constraints; the path length stays below the issuer's."""
    if issuer.path_length is not None:
        if issuer.path_length == 0:
            context.refuse(Refusal.CONFIGURATION, f"CA {issuer.name} may not issue CA certificates (path length 0)")
        most = max(issuer.path_length - 1, 0)
        wanted = most if wanted is None else min(wanted, most)
    return extension(x509.BasicConstraints(ca=True, path_length=wanted), critical=True)


@lru_cache(maxsize=1024)
def compile_template(template: Template) -> CompiledTemplate:
    """The compiled form of a template; equal templates share one."""
    return CompiledTemplate(template)


def build_content(template: Template, authorised: Authorised, issuer: IssuerView, now: datetime) -> CertificateContent:
    """What the certificate will say. A client's wishes count only where the template lets them.

    Args:
        template: The template in force.
        authorised: The request that the gate said yes to. Key quality and proof of possession are checked elsewhere.
        issuer: The issuing key generation; keep the same object between calls.
        now: The present, aware UTC.

    Raises:
        Rejected: every reason found; the texts are safe to show to the client.
    """
    return compile_template(template).build(authorised, issuer, now)
