"""A time-stamping unit as it is configured: one TOML document of kind ``timestamp-unit``, shared by all nodes."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from enum import StrEnum
from typing import Literal

import attrs
from cryptography import x509

from pkiserver.authority.lifecycle.profile import parse_name
from pkiserver.foundation.bounds import networks, some_time, spelled
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.tomlfile import Invalid, format_duration, load
from pkiserver.keys.algorithms import KeyType, SignatureScheme

KIND = "timestamp-unit"
MAX_SERIAL_OCTETS = 20
"""RFC 3161 section 2.4.2: clients must be ready for serial numbers of up to 160 bits."""
_path_name = spelled("[a-z0-9][a-z0-9-]{0,31}", "1 to 32 of a-z, 0-9 and '-', beginning with a letter or digit")
_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]{0,9})){1,31}")
_DAY = timedelta(days=1)


class ImprintHash(StrEnum):
    """Hashes that a request's message imprint may use."""

    SHA1 = "sha1"
    SHA224 = "sha224"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"
    SHA3_256 = "sha3-256"
    SHA3_384 = "sha3-384"
    SHA3_512 = "sha3-512"


STRONG_HASHES = tuple(one for one in ImprintHash if one not in {ImprintHash.SHA1, ImprintHash.SHA224})
"""What a unit takes unless it is told otherwise."""


class Precision(StrEnum):
    """How finely genTime is given."""

    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    MICROSECONDS = "microseconds"


QUANTUM = {
    Precision.SECONDS: timedelta(seconds=1),
    Precision.MILLISECONDS: timedelta(milliseconds=1),
    Precision.MICROSECONDS: timedelta(microseconds=1),
}
"""By how much genTime, which is cut, may be early."""


class Chain(StrEnum):
    """What a client that sets certReq gets."""

    NEVER = "never"
    """A refusal (addInfoNotAvailable): the certificates are given out in another way."""
    UNIT = "unit"
    FULL = "full"
    """Up to, and without, the root."""
    ROOT = "root"
    """The root as well."""


class Archive(StrEnum):
    """What is kept of every token."""

    OFF = "off"
    LOG = "log"
    """A hash-chained entry: serial, imprint, time and the token's digest."""
    TOKENS = "tokens"
    """The entry and the token itself."""


class Who(StrEnum):
    """How a client must show who it is."""

    ANYBODY = "anybody"
    PASSWORD = "password"  # noqa: S105 - a kind of evidence
    CERTIFICATE = "certificate"


def _oids(_instance: object, _attribute: object, value: tuple[str, ...]) -> None:
    if not value:
        raise Invalid("names no policy", allowed="dotted object identifiers, one or more")
    for one in value:
        try:
            check_oid(one)
        except ValueError as error:
            raise Invalid(str(error), allowed="for instance 1.3.6.1.4.1.99999.1") from error


def check_oid(text: str) -> None:
    """Raise :class:`ValueError` unless ``text`` is a dotted object identifier."""
    if not _OID.fullmatch(text):
        raise ValueError(f'"{text}" is not a dotted object identifier')
    try:
        x509.ObjectIdentifier(text)
    except ValueError:
        raise ValueError(f'"{text}" is not a dotted object identifier') from None


def _key_type(_instance: object, _attribute: object, value: str) -> None:
    _check(KeyType.parse, value)


def _scheme(_instance: object, _attribute: object, value: str) -> None:
    if value:
        _check(SignatureScheme.parse, value)


def _check(parse: Callable[[str], object], value: str) -> None:
    try:
        parse(value)
    except Rejected as error:
        raise ValueError(str(error)) from None


def _subject(_instance: object, _attribute: object, value: str) -> None:
    if value:
        try:
            parse_name(value)
        except ValueError as error:
            text = str(error) or "is no distinguished name"
            raise Invalid(text, allowed="RFC 4514, for instance CN=Time-stamping,O=Example,C=CH") from error


@attrs.frozen
class Access:
    """Who may ask this unit, and how often. All that is set must be met."""

    addresses: tuple[str, ...] = attrs.field(default=(), validator=networks)
    """Networks such as ``10.0.0.0/8``; empty: from anywhere."""
    who: Who = Who.ANYBODY
    groups: frozenset[str] = frozenset()
    """With ``password`` or ``certificate``: groups of which the account must be in one; empty: any account."""
    per_minute: int = attrs.field(default=0, validator=attrs.validators.in_(range(1_000_000_000)))
    """Requests that one client (account, else address) may make in a minute on each process; 0: no limit."""

    def __attrs_post_init__(self) -> None:
        if self.groups and self.who is Who.ANYBODY:
            raise Invalid('needs who = "password" or "certificate"', key="groups")


@attrs.frozen
class Authenticode:
    """Microsoft's older counter-signature (PKCS#7, no policy, no serial number), for old signtool."""

    enabled: bool = False


@attrs.frozen
class TimestampUnit:
    """One unit: its policy, its key, what its tokens say, and who may ask."""

    name: str = attrs.field(validator=_path_name)
    """Its path is ``/tsa/<name>``."""
    issuer: str
    """The authority that certifies it."""
    policies: tuple[str, ...] = attrs.field(validator=_oids)
    """Policy OIDs; the first one is used where the request names none."""
    kind: Literal["timestamp-unit"] = "timestamp-unit"
    description: str = ""
    enabled: bool = True
    default: bool = False
    """Whether ``/tsa`` without a name is this unit, too."""
    subject: str = attrs.field(default="", validator=_subject)
    """DN of its certificates (RFC 4514); empty: ``CN=Time-stamping unit <name>``."""
    key_type: str = attrs.field(default="ec-p256", validator=_key_type)
    key_store: str = ""
    """Where its keys are made; empty: where the issuer's key is."""
    scheme: str = attrs.field(default="", validator=_scheme)
    """How it signs, such as ``rsa-pss-sha256``; empty: the usual scheme of its key."""
    key_usage_period: timedelta = attrs.field(default=timedelta(days=365), validator=some_time)
    """How long one key signs (RFC 5280's private key usage period)."""
    certificate_validity: timedelta = attrs.field(default=timedelta(days=3650), validator=some_time)
    """How long its tokens can be checked by the certificate; cut at the issuer's own end."""
    renew_before: timedelta = attrs.field(default=timedelta(days=30), validator=some_time)
    """How long before the end of a key's period its successor takes over."""
    hashes: tuple[ImprintHash, ...] = STRONG_HASHES
    accuracy: timedelta = timedelta(seconds=1)
    """How far the clock may be off; beyond it no token is made."""
    state_accuracy: bool = True
    """Whether tokens say so."""
    precision: Precision = Precision.MILLISECONDS
    """What genTime is cut to; the accuracy covers what is cut off."""
    ordering: bool = False
    serial_octets: int = attrs.field(default=MAX_SERIAL_OCTETS, validator=attrs.validators.in_(range(8, 21)))
    signing_time: bool = True
    """The CMS signing-time attribute, the same second as genTime."""
    algorithm_protection: bool = False
    """The CMS algorithm protection attribute (RFC 6211)."""
    ess_cert_id_v1: bool = False
    """ESSCertID with SHA-1 beside ESSCertIDv2, for old verifiers."""
    qualified: bool = False
    """The qcStatements extension with esi4-qtstStatement-1 (EN 319 422 section 9.1)."""
    tsa_name: bool = True
    """The unit's DN in the token's ``tsa`` field."""
    certificates: Chain = Chain.FULL
    archive: Archive = Archive.OFF
    archive_strict: bool = False
    """No token is given out before its archive entry is durable."""
    authenticode: Authenticode = Authenticode()
    access: Access = Access()

    def __attrs_post_init__(self) -> None:
        problems = [*self._time_problems(), *self._other_problems()]
        if problems:
            raise ExceptionGroup("impossible combinations", problems)

    def _time_problems(self) -> list[Invalid]:
        problems = []
        if self.ordering and self.precision is not Precision.MICROSECONDS:
            text = "tokens that are ordered by genTime need a genTime of their own each"
            problems.append(Invalid(text, key="ordering", allowed='precision = "microseconds"'))
        if self.renew_before >= self.key_usage_period:
            problems.append(
                Invalid(
                    "must be shorter than key_usage_period",
                    key="renew_before",
                    allowed=f"less than {format_duration(self.key_usage_period)}",
                )
            )
        if self.key_usage_period > self.certificate_validity:
            problems.append(
                Invalid(
                    "must not be longer than certificate_validity",
                    key="key_usage_period",
                    allowed=f"up to {format_duration(self.certificate_validity)}",
                )
            )
        if not QUANTUM[self.precision] < self.accuracy < _DAY:
            text = f"cannot be kept: genTime is cut to whole {self.precision}"
            problems.append(Invalid(text, key="accuracy", allowed="more than one of them, less than 1d"))
        return problems

    def _other_problems(self) -> list[Invalid]:
        problems = []
        if not self.hashes or len(set(self.hashes)) != len(self.hashes):
            problems.append(Invalid("needs at least one hash, each once", key="hashes"))
        if len(set(self.policies)) != len(self.policies):
            problems.append(Invalid("names a policy twice", key="policies"))
        if self.scheme and not SignatureScheme.parse(self.scheme).suits_type(KeyType.parse(self.key_type)):
            problems.append(Invalid(f"is no scheme for a key of type {self.key_type}", key="scheme"))
        if self.archive_strict and self.archive is Archive.OFF:
            problems.append(Invalid('needs archive = "log" or "tokens"', key="archive_strict"))
        return problems

    @property
    def clock_error(self) -> float:
        """How wrong the clock may be, in seconds: the accuracy without what genTime is cut by."""
        return (self.accuracy - QUANTUM[self.precision]).total_seconds()

    @property
    def subject_name(self) -> x509.Name:
        """The DN of its certificates."""
        return parse_name(self.subject or f"CN=Time-stamping unit {self.name}")


def make_unit(**values: object) -> TimestampUnit:
    """A unit from single values.

    Raises:
        Rejected: CONFIGURATION; with every problem.
    """
    try:
        return TimestampUnit(**values)  # type: ignore[arg-type]  # the validators look at each
    except ExceptionGroup as group:
        raise Rejected(Reason(Refusal.CONFIGURATION, _with_allowed(error)) for error in group.exceptions) from group
    except ValueError as error:
        raise Rejected.because(Refusal.CONFIGURATION, _with_allowed(error)) from error


def _with_allowed(error: Exception) -> str:
    allowed = getattr(error, "allowed", None)
    return str(error) if allowed is None else f"{error} (allowed: {allowed})"


def load_unit(text: str, filename: str) -> TimestampUnit:
    """A unit from TOML text.

    Raises:
        ConfigurationError: with every problem, each at its line.
    """
    return load(TimestampUnit, text, filename)
