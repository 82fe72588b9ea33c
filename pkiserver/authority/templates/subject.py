"""The subject of one certificate: the template's parts in order, then what the client asked for beyond them."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from cryptography import x509

from pkiserver.authority.templates.attributes import BY_OID
from pkiserver.authority.templates.context import Context
from pkiserver.authority.templates.model_names import OtherWishes, Source, SubjectPart, SubjectRules
from pkiserver.authority.templates.names import attribute_label, name_attribute, subject_value_problem
from pkiserver.authority.templates.patterns import Pattern
from pkiserver.authority.templates.sankinds import SanKind
from pkiserver.authority.templates.text import show
from pkiserver.authority.templates.values import TextValue, Variable
from pkiserver.foundation.errors import Refusal

_Key = tuple[x509.ObjectIdentifier, str]


def _record_value(part: SubjectPart) -> TextValue:
    if part.value is not None and part.source is Source.RECORD:
        return part.value
    return TextValue((Variable("record", str(part.attribute)),))


@attrs.frozen
class _Part:
    rule: SubjectPart
    label: str
    patterns: tuple[Pattern, ...]
    record_value: TextValue
    fixed: tuple[x509.NameAttribute[str], ...]

    @classmethod
    def of(cls, rule: SubjectPart) -> _Part:
        fixed = rule.value.fixed if rule.source is Source.FIXED and rule.value is not None else None
        return cls(
            rule,
            str(rule.attribute),
            tuple(Pattern(text, ignore_case=rule.ignore_case) for text in rule.patterns),
            _record_value(rule),
            (name_attribute(rule.attribute, fixed),) if fixed is not None else (),
        )

    def values(self, context: Context, first_names: dict[SanKind, str]) -> list[str]:
        """What the sources say, before any check; the default where they say nothing.

        A subject that the registration gives as a whole is complete: no default adds to it.
        """
        rule = self.rule
        found: list[str] = []
        if rule.source is Source.SAN:
            found = [first_names[kind] for kind in rule.sans if kind in first_names][:1]
        elif rule.source in {Source.RECORD, Source.RECORD_OR_REQUEST}:
            found = self._recorded(context)
        if not found and rule.source.uses_request:
            found = self._asked(context)
        if not found and rule.source is Source.REQUEST_OR_RECORD:
            found = self._recorded(context)
        if not found and rule.default is not None and context.record.subject is None:
            found = context.expand(rule.default, rule.max)
        return found

    def _recorded(self, context: Context) -> list[str]:
        if context.record.subject is not None:
            return context.subject.get(self.label, [])
        return context.expand(self.record_value, self.rule.max)

    def _asked(self, context: Context) -> list[str]:
        if self.rule.value is not None and context.record.subject is None:
            return context.expand(self.rule.value, self.rule.max)
        return context.subject.get(self.label, [])

    def check(self, value: str) -> str | None:
        """Why a value may not stand here."""
        if problem := subject_value_problem(self.rule.attribute, value, self.rule.max_length):
            return problem
        if self.patterns and not any(pattern.matches(value) for pattern in self.patterns):
            return "matches no pattern of the template"
        return None


class SubjectCompiler:
    """The subject rules of one template, ready to be applied.

    ``consumed`` are the attributes that variables of the template use: a wish for them has been heard.
    """

    def __init__(self, rules: SubjectRules, consumed: frozenset[str] = frozenset()) -> None:
        self._rules = rules
        self._consumed = consumed
        self._parts = tuple(_Part.of(rule) for rule in rules.parts)

    def build(self, context: Context, first_names: dict[SanKind, str]) -> x509.Name:
        """The subject; reasons against it go to the context. ``first_names``: the first name of each kind."""
        rdns: list[list[x509.NameAttribute[str]]] = []
        refused: set[_Key] = set()
        for part in self._parts:
            attributes = part.fixed or self._attributes(part, context, first_names, refused)
            for attribute in attributes:
                if part.rule.same_rdn and rdns:
                    rdns[-1].append(attribute)
                else:
                    rdns.append([attribute])
        given = {(attribute.oid, attribute.value.casefold()) for rdn in rdns for attribute in rdn}
        self._check_required(context, {oid for oid, _ in given})
        self._check_others(context, given | refused)
        try:
            return x509.Name([x509.RelativeDistinguishedName(rdn) for rdn in rdns])
        except ValueError:
            context.refuse(Refusal.BAD_SUBJECT, "the subject has the same attribute twice in one RDN")
            return x509.Name([])

    def _attributes(
        self, part: _Part, context: Context, first_names: dict[SanKind, str], refused: set[_Key]
    ) -> list[x509.NameAttribute[str]]:
        values = part.values(context, first_names)
        rule = part.rule
        if not values and rule.required:
            context.refuse(Refusal.BAD_SUBJECT, f"the subject needs a {part.label}")
        if len(values) > rule.max:
            context.refuse(Refusal.LIMIT, f"more than {rule.max} {part.label} in the subject")
            refused.update((rule.attribute.rule.oid, value.casefold()) for value in values)
            return []
        found = []
        for value in values:
            if problem := part.check(value):
                context.refuse(Refusal.BAD_SUBJECT, f"{part.label} {show(value)} {problem}")
                refused.add((rule.attribute.rule.oid, value.casefold()))
            else:
                found.append(name_attribute(rule.attribute, value))
        return found

    def _check_required(self, context: Context, given: set[x509.ObjectIdentifier]) -> None:
        for attribute in self._rules.required:
            if attribute.rule.oid not in given:
                context.refuse(Refusal.BAD_SUBJECT, f"the subject needs a {attribute}")

    def _check_others(self, context: Context, given: set[_Key]) -> None:
        """What was asked for and is not in the subject: refused or left out, as the template says."""
        own = context.record.subject
        if own is not None:
            for label, shown in _missing(own, given):
                context.refuse(Refusal.BAD_SUBJECT, f"the registered {label} {shown} is not taken by the template")
        asked = context.wishes.subject
        if asked is None:
            return
        forbidden = {str(attribute) for attribute in self._rules.forbidden}
        for label, shown in _missing(asked, given):
            if label in self._consumed and own is None:
                continue
            if label in forbidden:
                context.refuse(Refusal.BAD_SUBJECT, f"{label} is forbidden in the subject")
            elif self._rules.others is OtherWishes.IGNORE:
                context.ignored.append(f"subject {label} {shown}")
            else:
                context.refuse(Refusal.BAD_SUBJECT, f"{label} {shown} is not for this requester to ask for")


def _missing(name: x509.Name, given: set[_Key]) -> Iterator[tuple[str, str]]:
    for count, item in enumerate(name):
        if count == 64:
            return
        if item.oid not in BY_OID or not isinstance(item.value, str) or (item.oid, item.value.casefold()) not in given:
            yield attribute_label(item.oid), show(item.value)
