"""What a template says about the subject and the subject alternative names."""

from __future__ import annotations

from enum import StrEnum

import attrs

from pkiserver.authority.templates.attributes import DnAttribute
from pkiserver.authority.templates.names import subject_value_problem
from pkiserver.authority.templates.patterns import Pattern
from pkiserver.authority.templates.sankinds import SanError, SanKind, compile_pattern, make
from pkiserver.authority.templates.values import Oid, TextValue
from pkiserver.foundation.tomlfile import Invalid

MAX_SANS = 1024


class Source(StrEnum):
    """Where a value comes from. Of the two that name both, the first that has a value wins."""

    FIXED = "fixed"
    RECORD = "record"
    REQUEST = "request"
    RECORD_OR_REQUEST = "record_or_request"
    REQUEST_OR_RECORD = "request_or_record"
    SAN = "san"

    @property
    def uses_request(self) -> bool:
        """Whether a client's wish can get in."""
        return self in {Source.REQUEST, Source.RECORD_OR_REQUEST, Source.REQUEST_OR_RECORD}


class OtherWishes(StrEnum):
    """What becomes of names that the client asks for and the template does not take."""

    REFUSE = "refuse"
    IGNORE = "ignore"


_SCOPES = {
    Source.FIXED: frozenset[str](),
    Source.RECORD: frozenset({"record"}),
    Source.REQUEST: frozenset({"record", "request"}),
    Source.SAN: frozenset[str](),
}


def _check_texts(source: Source, texts: tuple[TextValue, ...], key: str) -> list[Invalid]:
    problems = []
    if source is Source.FIXED and not texts:
        problems.append(Invalid('from = "fixed" needs it', key=key))
    if texts and source not in _SCOPES:
        problems.append(Invalid(f'cannot stand beside from = "{source}", which takes two values as they are', key=key))
    allowed = _SCOPES.get(source, frozenset({"record", "request"}))
    problems += [
        Invalid(f'{variable} cannot stand where from = "{source}"', key=key)
        for text in texts
        for variable in text.variables
        if variable.scope not in allowed
    ]
    return problems


def _raise(problems: list[Invalid]) -> None:
    if problems:
        raise ExceptionGroup("template", problems)


@attrs.frozen
class SubjectPart:
    """One attribute of the subject; parts stand in the subject in the order in which they are written.

    ``value`` defaults to the attribute of the same name in the record or the request. ``patterns`` (see
    :mod:`pkiserver.authority.templates.patterns`) bind every value that is not fixed; one of them must match.
    ``same_rdn`` joins the attribute to the RDN of the part before it.
    """

    attribute: DnAttribute
    source: Source = attrs.field(metadata={"key": "from"})
    value: TextValue | None = None
    default: TextValue | None = None
    sans: tuple[SanKind, ...] = ()
    patterns: tuple[str, ...] = ()
    ignore_case: bool = False
    required: bool = False
    max: int = 1
    max_length: int | None = None
    same_rdn: bool = False

    def __attrs_post_init__(self) -> None:
        problems = _check_texts(self.source, () if self.value is None else (self.value,), "value")
        if self.default is not None and any(v.scope != "record" for v in self.default.variables):
            problems.append(Invalid("a default may use variables of the record only", key="default"))
        if (self.source is Source.SAN) != bool(self.sans):
            problems.append(Invalid('goes with from = "san", and only with it', key="sans"))
        if self.source is Source.SAN and self.value is not None:
            problems.append(Invalid('from = "san" takes the first name of the kinds in sans as it is', key="value"))
        for text in self.patterns:
            try:
                Pattern(text, ignore_case=self.ignore_case)
            except ValueError as error:
                problems.append(Invalid(f'"{text}": {error}', key="patterns"))
        if not 1 <= self.max <= 32:
            problems.append(Invalid("is out of range", key="max", allowed="1 to 32"))
        limit = self.attribute.rule.limit
        if self.max_length is not None and not 1 <= self.max_length <= limit:
            problems.append(Invalid("is out of range", key="max_length", allowed=f"1 to {limit}"))
        for key, text_value in (("value", self.value), ("default", self.default)):
            fixed = text_value.fixed if text_value is not None else None
            if fixed is not None and (problem := subject_value_problem(self.attribute, fixed)):
                problems.append(Invalid(problem, key=key))
        _raise(problems)


@attrs.frozen
class SubjectRules:
    """The subject. ``others`` says what becomes of attributes that the client asks for and no part takes."""

    parts: tuple[SubjectPart, ...] = ()
    required: tuple[DnAttribute, ...] = ()
    forbidden: tuple[DnAttribute, ...] = ()
    others: OtherWishes = OtherWishes.REFUSE

    def __attrs_post_init__(self) -> None:
        given = {part.attribute for part in self.parts}
        problems = [
            Invalid(f"{name} is required and no part gives it", key="required")
            for name in self.required
            if name not in given
        ]
        problems += [
            Invalid(f"{name} is forbidden and a part gives it", key="forbidden")
            for name in self.forbidden
            if name in given
        ]
        if self.parts and self.parts[0].same_rdn:
            problems.append(Invalid("the first part has no RDN before it to join", key="parts"))
        _raise(problems)


@attrs.frozen
class SanPart:
    """One kind of subject alternative name and where its values come from.

    ``values`` defaults to the record's attribute with the kind's name, or the request's names of that kind.
    ``patterns`` bind every value that is not fixed: CIDR blocks for ``ip``, else patterns. ``oid`` goes with ``other``
    (an otherName holding a UTF8String).
    """

    kind: SanKind
    source: Source = attrs.field(metadata={"key": "from"})
    values: tuple[TextValue, ...] = ()
    patterns: tuple[str, ...] = ()
    min: int = 0
    max: int = 16
    wildcard: bool = False
    oid: Oid | None = None

    def __attrs_post_init__(self) -> None:
        problems = _check_texts(self.source, self.values, "values")
        if self.source is Source.SAN:
            problems.append(Invalid("is for parts of the subject", key="from"))
        for text in self.patterns:
            try:
                compile_pattern(self.kind, text)
            except ValueError as error:
                problems.append(Invalid(f'"{text}": {error}', key="patterns"))
        problems += self._fixed_problems()
        if not 0 <= self.min <= self.max <= MAX_SANS or self.max == 0:
            problems.append(
                Invalid("are out of range", key="max", allowed=f"0 <= min <= max, max from 1 to {MAX_SANS}")
            )
        if self.wildcard and self.kind is not SanKind.DNS:
            problems.append(Invalid('is for kind = "dns" only', key="wildcard"))
        if (self.kind is SanKind.OTHER) != (self.oid is not None):
            problems.append(Invalid('goes with kind = "other", and only with it', key="oid"))
        _raise(problems)

    def _fixed_problems(self) -> list[Invalid]:
        oid = self.oid.value if self.oid is not None else "1.1"
        problems = []
        for value in self.values if self.source is Source.FIXED else ():
            try:
                make(self.kind, value.fixed or "", wildcard=self.wildcard, oid=oid)
            except SanError as error:
                problems.append(Invalid(f'"{value}" {error}', key="values"))
        return problems


@attrs.frozen
class SanRules:
    """The subject alternative names. ``copy_common_name`` adds a CN that is a host name or an address."""

    parts: tuple[SanPart, ...] = ()
    min: int = 0
    max: int = 100
    others: OtherWishes = OtherWishes.REFUSE
    copy_common_name: bool = False
    copy_mail: bool = False

    def __attrs_post_init__(self) -> None:
        problems = []
        if not 0 <= self.min <= self.max <= MAX_SANS:
            problems.append(Invalid("are out of range", key="max", allowed=f"0 <= min <= max <= {MAX_SANS}"))
        if self.min and not self.parts and not self.copy_common_name and not self.copy_mail:
            problems.append(Invalid("names are required and nothing gives any", key="min", allowed="0, or with parts"))
        if (needed := sum(part.min for part in self.parts)) > self.max:
            text = "is less than the parts need together"
            problems.append(Invalid(text, key="max", allowed=f"{needed} to {MAX_SANS}"))
        _raise(problems)


__all__ = [
    "MAX_SANS",
    "OtherWishes",
    "SanKind",
    "SanPart",
    "SanRules",
    "Source",
    "SubjectPart",
    "SubjectRules",
]
