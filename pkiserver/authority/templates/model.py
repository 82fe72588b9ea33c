"""A certificate template as its TOML file says it. ``docs/templates.md`` explains every key."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

import attrs

from pkiserver.authority.checks.lintlevel import LintLevel
from pkiserver.authority.templates import checks
from pkiserver.authority.templates.model_extensions import (
    AddedExtension,
    BasicConstraintsMode,
    CaRules,
    ExtendedKeyUsageRules,
    KeyUsageRules,
    MicrosoftRules,
    Policy,
    QcRules,
    RequestExtensionRules,
    UrlRules,
)
from pkiserver.authority.templates.model_names import SanRules, SubjectRules
from pkiserver.authority.templates.model_registration import MOST_APPROVALS, MOST_WAITING, SeatRules
from pkiserver.authority.templates.values import Oid
from pkiserver.foundation.bounds import SITE_NAME
from pkiserver.foundation.errors import Reason, Refusal
from pkiserver.foundation.tomlfile import Invalid, format_duration
from pkiserver.keys.algorithms import KeyType

# Operation paths of RFC 7030 section 3.2.2 and RFC 8295 section 2: a label may not be one of them.
EST_OPERATIONS = frozenset(
    {
        "cacerts", "simpleenroll", "simplereenroll", "fullcmc", "csrattrs", "serverkeygen",
        "crls", "pal", "symmetrickeys", "eecerts", "firmware", "tamp",
    }
)  # fmt: skip
_ARGON2ID = re.compile(r"\$argon2id\$v=19\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")


class EnrollmentProtocol(StrEnum):
    """The ways by which a request can come. ``internal``: certificates that the server makes for itself."""

    EST = "est"
    SCEP = "scep"
    CMP = "cmp"
    RCDP = "rcdp"
    ACME = "acme"
    WSTEP = "wstep"
    REST = "rest"
    CONSOLE = "console"
    CLI = "cli"
    INTERNAL = "internal"


class BeyondIssuer(StrEnum):
    """What happens when a certificate would outlive its issuer."""

    CLAMP = "clamp"
    REFUSE = "refuse"


class WishedValidity(StrEnum):
    """What a client's wish about validity does: nothing, shorten (never lengthen), or get the request refused."""

    IGNORE = "ignore"
    SHORTEN = "shorten"
    REFUSE = "refuse"


@attrs.frozen
class ValidityRules:
    """How long. The period counts from notBefore and includes both ends (RFC 5280 section 4.1.2.5).

    ``backdate`` puts notBefore into the past, for clients whose clocks are late. ``not_after`` is a fixed end instead
    of a duration; 9999-12-31T23:59:59Z means no expiry. ``minimum``: refuse rather than issue for less, after clamping.
    """

    duration: timedelta | None = None
    not_after: datetime | None = None
    backdate: timedelta = timedelta(minutes=5)
    beyond_issuer: BeyondIssuer = BeyondIssuer.CLAMP
    wishes: WishedValidity = WishedValidity.IGNORE
    minimum: timedelta = timedelta(minutes=1)
    private_key_usage: timedelta | None = None

    def __attrs_post_init__(self) -> None:
        problems = []
        if (self.duration is None) == (self.not_after is None):
            problems.append(Invalid("give one of duration and not_after", key="duration"))
        if self.duration is not None and not timedelta(minutes=1) <= self.duration <= timedelta(days=365 * 8000):
            problems.append(Invalid("is out of range", key="duration", allowed="1m to 8000y"))
        if self.duration is not None and self.backdate >= self.duration:
            problems.append(
                Invalid(
                    "reaches back further than the certificate lasts",
                    key="backdate",
                    allowed=f"less than {format_duration(self.duration)}",
                )
            )
        if not timedelta() <= self.backdate <= timedelta(days=366):
            problems.append(Invalid("is out of range", key="backdate", allowed="0s to 366d"))
        if self.private_key_usage is not None and self.private_key_usage <= timedelta():
            problems.append(Invalid("is out of range", key="private_key_usage", allowed="more than 0s"))
        if problems:
            raise ExceptionGroup("template", problems)


class KeyReuse(StrEnum):
    """Whether a renewal may keep its key."""

    ALLOW = "allow"
    REFUSE = "refuse"


@attrs.frozen
class RenewalRules:
    """Renewal with the current certificate: from ``window`` before its end until ``grace`` after it.

    ``revoke_old``: the renewed certificate is revoked as superseded when the new one is stored. ``connectors``: who was
    shown by a connector renews while it is ``named`` by a rule of the template and can be asked, or after ``any``
    change: then one that is not there any more is not asked.
    """

    allowed: bool = True
    window: timedelta = timedelta(days=30)
    grace: timedelta = timedelta()
    same_key: KeyReuse = KeyReuse.ALLOW
    revoke_old: bool = False
    connectors: Literal["named", "any"] = "named"


class SameSubject(StrEnum):
    """A valid certificate of this template has the same subject: issue, refuse, or issue and revoke the old one."""

    ALLOW = "allow"
    REFUSE = "refuse"
    SUPERSEDE = "supersede"


class SameKey(StrEnum):
    """A certificate for the same key exists: issue, only when it has the same subject, or never."""

    ALLOW = "allow"
    SAME_SUBJECT = "same_subject"
    REFUSE = "refuse"


@attrs.frozen
class DuplicateRules:
    """Duplicates. A renewal of the very certificate is no duplicate."""

    same_subject: SameSubject = SameSubject.ALLOW
    same_key: SameKey = SameKey.SAME_SUBJECT


class EvidenceKind(StrEnum):
    """What a client can show. ``operator`` is somebody at the server's own command line.

    ``self_signed`` is nothing but a request signed with its own key: it shows nobody, and goes with approval only.
    ``anonymous`` is nothing at all: whoever reaches the server gets a certificate.
    """

    PASSWORD = "password"  # noqa: S105 - the name of a kind of evidence
    CLIENT_CERTIFICATE = "client_certificate"
    CODE = "code"
    SHARED_SECRET = "shared_secret"  # noqa: S105
    SELF_SIGNED = "self_signed"
    OPERATOR = "operator"
    ANONYMOUS = "anonymous"


_VOUCHED = frozenset({EvidenceKind.PASSWORD, EvidenceKind.CLIENT_CERTIFICATE, EvidenceKind.SHARED_SECRET})
INTERNAL = "internal"
"""Among a rule's connectors: the accounts and the certificates of this server itself."""


@attrs.frozen
class EvidenceRule:
    """One sufficient set of evidence: every kind in ``all`` must be there.

    ``protocols``: where the rule holds; empty means everywhere. ``groups``: the requester is in one of them; empty
    means anybody known. ``approval``: officers must agree as well, ``approvals`` of them, who are members of one of the
    groups ``approvers`` (empty: anybody who may decide); a request waits for ``approval_lifetime``.
    ``waiting``: so many requests of the template may wait that show nobody, and ``waiting_each`` of one address.
    ``issuers``: authorities whose client certificates count; empty means the template's own. ``templates``: templates
    whose client certificates count; empty means any. ``connectors``: who vouches for passwords and for certificates of
    others, asked in their order; empty means ``internal``, this server's own accounts and certificates.
    """

    all: tuple[EvidenceKind, ...]
    protocols: tuple[EnrollmentProtocol, ...] = ()
    groups: tuple[str, ...] = ()
    approval: bool = False
    issuers: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    connectors: tuple[str, ...] = ()
    approvals: int = 1
    approvers: tuple[str, ...] = ()
    approval_lifetime: timedelta = timedelta(days=14)
    waiting: int = attrs.field(default=1000, validator=attrs.validators.in_(range(1, MOST_WAITING + 1)))
    waiting_each: int = attrs.field(default=50, validator=attrs.validators.in_(range(1, MOST_WAITING + 1)))

    @property
    def accepted_from(self) -> tuple[str, ...]:
        """The connectors that count, in their order."""
        return self.connectors or (INTERNAL,)

    def __attrs_post_init__(self) -> None:
        if not self.all:
            raise Invalid("names no evidence: nobody gets a certificate for nothing", key="all")
        if (self.approvals != 1 or self.approvers) and not self.approval:
            raise Invalid("goes with approval = true", key="approvers" if self.approvers else "approvals")
        if not 1 <= self.approvals <= MOST_APPROVALS:
            raise Invalid("is out of range", key="approvals", allowed=f"1 to {MOST_APPROVALS}")
        if not timedelta(minutes=1) <= self.approval_lifetime <= timedelta(days=366):
            raise Invalid("is out of range", key="approval_lifetime", allowed="1m to 366d")
        if EvidenceKind.ANONYMOUS in self.all and (len(self.all) > 1 or self.groups):
            raise Invalid("anonymous stands alone, and is in no group", key="all")
        if self.connectors and not _VOUCHED & set(self.all):
            raise Invalid("goes with password, client_certificate or shared_secret", key="connectors")
        if EvidenceKind.SELF_SIGNED in self.all and not self.approval:
            raise Invalid("self_signed shows nobody: it goes with approval = true", key="all")
        if (self.issuers or self.templates) and EvidenceKind.CLIENT_CERTIFICATE not in self.all:
            raise Invalid("goes with client_certificate", key="issuers" if self.issuers else "templates")


@attrs.frozen
class EstRules:
    """What EST (RFC 7030) offers for this template. ``csr_attributes``: further OIDs for csrattrs."""

    proof_linking: Literal["when_present", "required"] = "when_present"
    server_keygen: bool = False
    server_keygen_key: KeyType | None = None
    csr_attributes: tuple[Oid, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.server_keygen_key is not None and not self.server_keygen:
            raise Invalid("goes with server_keygen = true", key="server_keygen_key")


class LegacyAlgorithm(StrEnum):
    """Old algorithms that a template may switch on for old SCEP devices."""

    DES3 = "des3"
    SHA1 = "sha1"
    DES = "des"
    MD5 = "md5"


def _argon2id(_instance: object, _attribute: object, value: str) -> None:
    if value and not _ARGON2ID.fullmatch(value):
        raise Invalid("is no argon2id hash", allowed="what `pkiserver scep hash-challenge` prints")


@attrs.frozen
class ScepRules:
    """What SCEP (RFC 8894) does for this template.

    ``legacy``: old algorithms that are accepted, and used in answers to clients that use them. ``static_challenge``:
    the argon2id hash of a challengePassword that every device knows; empty: none. ``password_recipient``: answers for
    keys that cannot be encrypted to go under the challengePassword. ``ca_certificates``: order of what GetCACert gives
    out. ``failure_text``: refusals carry their reasons (failInfoText). ``latin1``: what is neither ASCII nor UTF-8 in a
    request's subject is ISO 8859-1, as old clients write it.
    """

    legacy: tuple[LegacyAlgorithm, ...] = ()
    static_challenge: str = attrs.field(default="", repr=False, validator=_argon2id)
    password_recipient: bool = False
    ca_certificates: Literal["leaf_first", "root_first", "without_root", "ra_only"] = "leaf_first"
    failure_text: bool = True
    latin1: bool = False


PersonAttribute = Literal["cn", "sn", "givenName", "displayName", "o", "ou", "l", "c", "title", "telephoneNumber"]
"""What of a certificate's subject the address book may show beside the mail address."""


@attrs.frozen
class PublicationRules:
    """Whether certificates of this template are shown in the address book, and what of their subjects.

    ``certificates``: of one mail address the newest certificate in force of each kind of key, or all in force.
    ``history``: expired and revoked certificates are still found by who asks for exactly that certificate (issuer and
    serial, or hash), never by address. ``attributes``: shown and, where they are names, searched for.
    """

    addressbook: bool = False
    certificates: Literal["newest", "all"] = "newest"
    history: bool = False
    attributes: tuple[PersonAttribute, ...] = (
        "cn", "sn", "givenName", "displayName", "o", "ou", "l", "c", "title", "telephoneNumber",
    )  # fmt: skip


@attrs.frozen(cache_hash=True)
class Template:
    """Everything that decides what a certificate of this template says and who may have one."""

    name: str
    issuer: str
    keys: tuple[KeyType, ...]
    validity: ValidityRules
    kind: Literal["template"] = "template"
    description: str = ""
    enabled: bool = True
    protocols: tuple[EnrollmentProtocol, ...] = ()
    lint: LintLevel = LintLevel.ERROR
    escrow: bool = False
    must_staple: bool = False
    ocsp_no_check: bool = False
    basic_constraints: BasicConstraintsMode = BasicConstraintsMode.CRITICAL
    policies_critical: bool = False
    evidence: tuple[EvidenceRule, ...] = ()
    subject: SubjectRules = attrs.field(factory=SubjectRules)
    sans: SanRules = attrs.field(factory=SanRules)
    key_usage: KeyUsageRules | None = None
    extended_key_usage: ExtendedKeyUsageRules | None = None
    ca: CaRules | None = None
    policies: tuple[Policy, ...] = ()
    qc_statements: QcRules | None = None
    microsoft: MicrosoftRules | None = None
    extensions: tuple[AddedExtension, ...] = ()
    request_extensions: RequestExtensionRules = attrs.field(factory=RequestExtensionRules)
    urls: UrlRules = attrs.field(factory=UrlRules)
    renewal: RenewalRules = attrs.field(factory=RenewalRules)
    duplicates: DuplicateRules = attrs.field(factory=DuplicateRules)
    seats: SeatRules = attrs.field(factory=SeatRules)
    est: EstRules = attrs.field(factory=EstRules)
    publication: PublicationRules = attrs.field(factory=PublicationRules)
    scep: ScepRules = attrs.field(factory=ScepRules)

    def __attrs_post_init__(self) -> None:
        problems = []
        if not SITE_NAME.fullmatch(self.name):
            problems.append(Invalid("is not 1 to 63 letters, digits, dots, hyphens and underscores", key="name"))
        if self.name.lower() in EST_OPERATIONS:
            problems.append(Invalid(f'"{self.name}" is an operation path of EST and cannot be a label', key="name"))
        problems += checks.combination_problems(self)
        if problems:
            raise ExceptionGroup("template", problems)

    def allows(self, protocol: str) -> bool:
        """Whether requests may come by this protocol."""
        return protocol in self.protocols

    def refusal_of(self, algorithm: LegacyAlgorithm) -> Reason | None:
        """Why an old algorithm is not accepted by SCEP; None where it is."""
        if algorithm in self.scep.legacy:
            return None
        return Reason(Refusal.BAD_ALGORITHM, f"{algorithm.value.upper()} is not accepted for template {self.name}")

    def serves(self, protocol: str) -> bool:
        """Whether it is in use now, and requests may come by this protocol."""
        return self.enabled and self.allows(protocol)

    def evidence_for(self, protocol: str) -> tuple[EvidenceRule, ...]:
        """The rules that hold for a protocol; any one of them suffices. Empty: nobody is entitled."""
        return tuple(rule for rule in self.evidence if not rule.protocols or protocol in rule.protocols)
