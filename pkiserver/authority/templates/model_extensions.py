"""What a template says about extensions (RFC 5280 section 4.2, RFC 3739, RFC 7633, ETSI EN 319 412-5, Microsoft)."""

from __future__ import annotations

import ipaddress
from enum import StrEnum

import attrs

from pkiserver.authority.templates.sankinds import SanError, directory_name
from pkiserver.authority.templates.text import character_problem, host_problem, uri_problem
from pkiserver.authority.templates.usages import AGREEMENT_USAGES, CA_USAGES, Usage
from pkiserver.authority.templates.values import DerValue, ExtendedUsage, Oid, TextValue
from pkiserver.foundation.tomlfile import Invalid

MAX_NOTICE = 200  # RFC 5280 section 4.2.1.4: explicitText SIZE (1..200)

# RFC 5280 and Netscape extensions that belong to the issuer or to CRLs: copied from no request, ever.
NEVER_COPIED = {
    "2.5.29.14": "subject key identifier",
    "2.5.29.18": "issuer alternative name",
    "2.5.29.19": "basic constraints",
    "2.5.29.20": "CRL number",
    "2.5.29.21": "reason code",
    "2.5.29.23": "hold instruction",
    "2.5.29.24": "invalidity date",
    "2.5.29.27": "delta CRL indicator",
    "2.5.29.28": "issuing distribution point",
    "2.5.29.29": "certificate issuer",
    "2.5.29.31": "CRL distribution points",
    "2.5.29.35": "authority key identifier",
    "2.5.29.46": "freshest CRL",
    "2.5.29.60": "expired certificates on CRL",
    "1.3.6.1.5.5.7.1.1": "authority information access",
    "1.3.6.1.5.5.7.48.1.5": "OCSP no check",
    "1.3.6.1.4.1.11129.2.4.2": "signed certificate timestamps",
    "1.3.6.1.4.1.11129.2.4.3": "precertificate poison",
    "2.16.840.1.113730.1.1": "Netscape certificate type",
    "2.16.840.1.113730.1.2": "Netscape base URL",
    "2.16.840.1.113730.1.3": "Netscape revocation URL",
    "2.16.840.1.113730.1.4": "Netscape CA revocation URL",
    "1.2.840.113533.7.65.0": "Entrust version",
}
OWN_SECTION = {
    "2.5.29.15": "[key_usage]",
    "2.5.29.17": "[sans]",
    "2.5.29.37": "[extended_key_usage] from_request",
    "2.5.29.30": "[ca]",
    "2.5.29.36": "[ca]",
    "2.5.29.54": "[ca]",
}


@attrs.frozen
class KeyUsageRules:
    """Key usage bits. A bit that a key's kind cannot have (RFC 8813 and others) is left out for such keys."""

    usages: tuple[Usage, ...]
    critical: bool = True

    def __attrs_post_init__(self) -> None:
        if not self.usages:
            raise Invalid("names no usage; leave the table out to issue without the extension", key="usages")
        narrowing = AGREEMENT_USAGES - {Usage.KEY_AGREEMENT}
        if narrowing & set(self.usages) and Usage.KEY_AGREEMENT not in self.usages:
            raise Invalid("encipher_only and decipher_only mean nothing without key_agreement", key="usages")
        if narrowing <= set(self.usages):
            raise Invalid("encipher_only and decipher_only exclude each other", key="usages")

    @property
    def is_ca(self) -> bool:
        """Whether it signs certificates or CRLs."""
        return bool(CA_USAGES & set(self.usages))


@attrs.frozen
class ExtendedKeyUsageRules:
    """Purposes. ``from_request``: what a client may ask for; what it asks for then replaces ``usages``."""

    usages: tuple[ExtendedUsage, ...] = ()
    critical: bool = False
    from_request: tuple[ExtendedUsage, ...] = ()

    def __attrs_post_init__(self) -> None:
        if not self.usages and not self.from_request:
            raise Invalid("names no purpose; leave the table out to issue without the extension", key="usages")
        if len(set(self.usages)) != len(self.usages):
            raise Invalid("names a purpose twice", key="usages")


class BasicConstraintsMode(StrEnum):
    """How an end entity's certificate says that it is no CA."""

    CRITICAL = "critical"
    NONCRITICAL = "noncritical"
    ABSENT = "absent"


@attrs.frozen
class NameSpaces:
    """Name constraint subtrees: host names, mail hosts or addresses, address blocks, URI hosts, distinguished names."""

    dns: tuple[str, ...] = ()
    mail: tuple[str, ...] = ()
    ip: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    uri: tuple[str, ...] = ()
    directory: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        hosts = [("dns", host, host) for host in self.dns] + [("uri", host, host) for host in self.uri]
        hosts += [("mail", address, address.rpartition("@")[2]) for address in self.mail]
        problems = [
            Invalid(f'"{shown}" is not a host name', key=key)
            for key, shown, host in hosts
            if host and host_problem(host.removeprefix("."))
        ]
        for name in self.directory:
            try:
                directory_name(name)
            except SanError as error:
                problems.append(Invalid(f'"{name}" {error}', key="directory"))
        if problems:
            raise ExceptionGroup("template", problems)


@attrs.frozen
class CaRules:
    """Makes the certificate a CA's. Absent: it is an end entity's."""

    path_length: int | None = None
    permitted: NameSpaces = NameSpaces()
    excluded: NameSpaces = NameSpaces()
    require_explicit_policy: int | None = None
    inhibit_policy_mapping: int | None = None
    inhibit_any_policy: int | None = None

    def __attrs_post_init__(self) -> None:
        problems = [
            Invalid("is out of range", key=key, allowed="0 to 255")
            for key in ("path_length", "require_explicit_policy", "inhibit_policy_mapping", "inhibit_any_policy")
            if getattr(self, key) is not None and not 0 <= getattr(self, key) <= 255
        ]
        if problems:
            raise ExceptionGroup("template", problems)


@attrs.frozen
class Policy:
    """One certificate policy with CPS URIs and a user notice of at most 200 characters."""

    oid: Oid
    cps: tuple[str, ...] = ()
    notice: str | None = None

    def __attrs_post_init__(self) -> None:
        for uri in self.cps:
            if uri_problem(uri):
                raise Invalid(f'"{uri}" is not an absolute URI', key="cps")
        if self.notice is not None and (
            not 1 <= len(self.notice) <= MAX_NOTICE or character_problem(self.notice) is not None
        ):
            raise Invalid(f"is not 1 to {MAX_NOTICE} printable characters", key="notice")


class QcType(StrEnum):
    """ETSI EN 319 412-5 section 4.2.3: what the qualified certificate is for."""

    ESIGN = "esign"
    ESEAL = "eseal"
    WEB = "web"


class QcSemantics(StrEnum):
    """ETSI EN 319 412-1 section 5: what the identifiers in the subject mean."""

    NATURAL = "natural"
    LEGAL = "legal"
    EIDAS_NATURAL = "eidas_natural"
    EIDAS_LEGAL = "eidas_legal"


@attrs.frozen
class QcLimit:
    """A limit on the value of transactions: ``amount`` times ten to the ``exponent``, currency by ISO 4217 letters."""

    currency: str
    amount: int
    exponent: int = 0

    def __attrs_post_init__(self) -> None:
        if not (len(self.currency) == 3 and self.currency.isascii() and self.currency.isupper()):
            raise Invalid("is not an ISO 4217 code of three letters", key="currency")
        if self.amount < 0:
            raise Invalid("is negative", key="amount", allowed="0 and more")


@attrs.frozen
class QcDisclosure:
    """A PKI disclosure statement: URL and ISO 639-1 language."""

    url: str
    language: str

    def __attrs_post_init__(self) -> None:
        if uri_problem(self.url):
            raise Invalid("is not an absolute URI", key="url")
        if not (len(self.language) == 2 and self.language.isascii() and self.language.islower()):
            raise Invalid("is not a language code of two letters", key="language")


class Psd2Role(StrEnum):
    """ETSI TS 119 495 section 5.2.2: roles of a payment service provider."""

    ACCOUNT_SERVICING = "PSP_AS"
    PAYMENT_INITIATION = "PSP_PI"
    ACCOUNT_INFORMATION = "PSP_AI"
    CARD_ISSUING = "PSP_IC"


@attrs.frozen
class Psd2:
    """The PSD2 statement: roles and the competent authority."""

    roles: tuple[Psd2Role, ...]
    authority_name: str
    authority_id: str

    def __attrs_post_init__(self) -> None:
        if not self.roles:
            raise Invalid("names no role", key="roles")
        for key, value in (("authority_name", self.authority_name), ("authority_id", self.authority_id)):
            if not 1 <= len(value) <= 256 or character_problem(value):
                raise Invalid("is not 1 to 256 printable characters", key=key)


@attrs.frozen
class QcOther:
    """A further statement: its identifier and, where it has one, its information as DER."""

    oid: Oid
    der: DerValue | None = None


@attrs.frozen
class QcRules:
    """Qualified certificate statements (RFC 3739 section 3.2.6, ETSI EN 319 412-5)."""

    critical: bool = False
    compliance: bool = False
    sscd: bool = False
    types: tuple[QcType, ...] = ()
    retention_years: int | None = None
    limit: QcLimit | None = None
    disclosures: tuple[QcDisclosure, ...] = ()
    legislation: tuple[str, ...] = ()
    semantics: QcSemantics | None = None
    psd2: Psd2 | None = None
    others: tuple[QcOther, ...] = ()

    def __attrs_post_init__(self) -> None:
        said = (self.compliance, self.sscd, self.types, self.limit, self.disclosures, self.legislation)
        if not any((*said, self.semantics, self.psd2, self.others)) and self.retention_years is None:
            raise Invalid("states nothing; leave the table out", key="compliance")
        if self.retention_years is not None and not 0 <= self.retention_years <= 255:
            raise Invalid("is out of range", key="retention_years", allowed="0 to 255")
        for country in self.legislation:
            if not (len(country) == 2 and country.isascii() and country.isupper()):
                raise Invalid(f'"{country}" is not a country code of two capital letters', key="legislation")


@attrs.frozen
class MicrosoftRules:
    """Microsoft's extensions: v1 template name, v2 template OID and version, application policies, account SID.

    ``sid`` is a text such as ``{record.sid}``; ``sid_required`` refuses a request whose record has none.
    """

    template_name: str | None = None
    template_oid: Oid | None = None
    major_version: int | None = None
    minor_version: int | None = None
    application_policies: bool = False
    sid: TextValue | None = None
    sid_required: bool = True

    def __attrs_post_init__(self) -> None:
        if self.template_name is not None and not 1 <= len(self.template_name) <= 64:
            raise Invalid("is not 1 to 64 characters", key="template_name")
        if self.template_oid is None and (self.major_version is not None or self.minor_version is not None):
            raise Invalid("a version goes with template_oid", key="major_version")
        if self.minor_version is not None and self.major_version is None:
            raise Invalid("goes with major_version", key="minor_version")
        if self.sid is not None and any(variable.scope != "record" for variable in self.sid.variables):
            raise Invalid("an account's SID comes from the registration record only", key="sid")


@attrs.frozen
class AddedExtension:
    """An extension of the administrator's own: its DER is not interpreted, only checked to be well-formed."""

    oid: Oid
    der: DerValue
    critical: bool = False


class OtherExtensions(StrEnum):
    """What becomes of extensions that a request asks for and the template does not give.

    ``refuse_privileges``: those that ask for more power (a CA's, a purpose the template does not give, an account's
    SID) are refused, the rest is left out.
    """

    REFUSE = "refuse"
    REFUSE_PRIVILEGES = "refuse_privileges"
    IGNORE = "ignore"


@attrs.frozen
class RequestExtensionRules:
    """Extensions taken over from a request as they are, never critical."""

    allow: tuple[Oid, ...] = ()
    others: OtherExtensions = OtherExtensions.REFUSE_PRIVILEGES
    max_octets: int = 4096

    def __attrs_post_init__(self) -> None:
        problems = []
        for oid in self.allow:
            if oid.value in NEVER_COPIED:
                problems.append(
                    Invalid(f"{oid} ({NEVER_COPIED[oid.value]}) is never taken from a request", key="allow")
                )
            elif oid.value in OWN_SECTION:
                problems.append(Invalid(f"{oid} is governed by {OWN_SECTION[oid.value]}", key="allow"))
        if not 1 <= self.max_octets <= 65536:
            problems.append(Invalid("is out of range", key="max_octets", allowed="1 to 65536"))
        if problems:
            raise ExceptionGroup("template", problems)


@attrs.frozen
class UrlRules:
    """Which of the issuer's URLs go into the certificate."""

    crl: bool = True
    ocsp: bool = True
    ca_issuers: bool = True
