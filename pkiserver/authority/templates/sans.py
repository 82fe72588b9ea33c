"""The subject alternative names of one certificate."""

from __future__ import annotations

import attrs
from cryptography import x509
from cryptography.x509.oid import NameOID

from pkiserver.authority.templates import text
from pkiserver.authority.templates.context import AskedName, Context
from pkiserver.authority.templates.model_names import OtherWishes, SanPart, SanRules, Source
from pkiserver.authority.templates.sankinds import (
    Matcher,
    SanError,
    SanKind,
    comparable,
    compile_pattern,
    make,
)
from pkiserver.authority.templates.values import TextValue, Variable
from pkiserver.foundation.errors import Refusal


@attrs.frozen
class _Part:
    rule: SanPart
    oid: str | None
    matchers: tuple[Matcher, ...]
    record_values: tuple[TextValue, ...]
    fixed: tuple[x509.GeneralName, ...]

    @classmethod
    def of(cls, rule: SanPart) -> _Part:
        """Compile a part; raises :class:`SanError` for a fixed value that is no name of the kind."""
        oid = rule.oid.value if rule.oid is not None else None
        own = rule.values if rule.values and rule.source is Source.RECORD else ()
        fixed = [value.fixed or "" for value in rule.values] if rule.source is Source.FIXED else []
        return cls(
            rule,
            oid,
            tuple(compile_pattern(rule.kind, pattern) for pattern in rule.patterns),
            own or (TextValue((Variable("record", str(rule.kind)),)),),
            tuple(make(rule.kind, value, wildcard=rule.wildcard, oid=oid) for value in fixed),
        )

    def values(self, context: Context) -> list[str]:
        """What the sources say, before any check."""
        source = self.rule.source
        found: list[str] = []
        if source in {Source.RECORD, Source.RECORD_OR_REQUEST}:
            found = self._recorded(context)
        if not found and source.uses_request:
            found = self._asked(context)
        if not found and source is Source.REQUEST_OR_RECORD:
            found = self._recorded(context)
        return found

    def _recorded(self, context: Context) -> list[str]:
        if context.record.sans is not None:
            return self._of_kind(context)
        return [value for item in self.record_values for value in context.expand(item, self.rule.max)]

    def _asked(self, context: Context) -> list[str]:
        if self.rule.values and context.record.sans is None:
            return [value for item in self.rule.values for value in context.expand(item, self.rule.max)]
        return self._of_kind(context)

    def _of_kind(self, context: Context) -> list[str]:
        return [asked.text for asked in context.names if asked.kind is self.rule.kind and asked.oid == self.oid]

    def matches(self, name: x509.GeneralName) -> bool:
        """Whether the patterns, if there are any, let the name through as it would stand in the certificate."""
        if not self.matchers:
            return True
        value = _text_of(name)
        return any(matcher(value) for matcher in self.matchers)


@attrs.define
class _Found:
    """Names in order, each once; and the asked-for texts that were looked at and refused."""

    names: dict[object, x509.GeneralName] = attrs.Factory(dict)
    first: dict[SanKind, str] = attrs.Factory(dict)
    refused: set[tuple[SanKind, str]] = attrs.Factory(set)

    def add(self, name: x509.GeneralName) -> None:
        """Add a name unless it is there."""
        self.names.setdefault(comparable(name), name)


class SanCompiler:
    """The rules for alternative names of one template, ready to be applied.

    ``consumed`` are the kinds that variables of the template use: a wish for them has been heard.
    """

    def __init__(self, rules: SanRules, consumed: frozenset[str] = frozenset()) -> None:
        self.rules = rules
        self._consumed = consumed
        self._parts = tuple(_Part.of(rule) for rule in rules.parts)
        self._dns = tuple(part for part in self._parts if part.rule.kind is SanKind.DNS)
        self._wildcard = any(part.rule.wildcard for part in self._dns)

    def collect(self, context: Context) -> _Found:
        """The names that the parts give; reasons against them go to the context."""
        found = _Found()
        taken: set[tuple[SanKind, str]] = set()
        mismatched: dict[tuple[SanKind, str], None] = {}
        for part in self._parts:
            self._take(part, context, found, taken, mismatched)
        for kind, value in mismatched:
            if (kind, value) not in taken:
                found.refused.add((kind, value))
                context.refuse_name(kind, f"{kind} {text.show(value)}", "matches no pattern of the template")
        return found

    def _take(
        self,
        part: _Part,
        context: Context,
        found: _Found,
        taken: set[tuple[SanKind, str]],
        mismatched: dict[tuple[SanKind, str], None],
    ) -> None:
        rule = part.rule
        names = list(part.fixed)
        for value in part.values(context) if not names else ():
            key = (rule.kind, value)
            try:
                name = make(rule.kind, value, wildcard=rule.wildcard, oid=part.oid)
            except SanError as error:
                if key not in found.refused:
                    context.refuse_name(rule.kind, f"{rule.kind} {text.show(value)}", str(error))
                found.refused.add(key)
                continue
            if part.matches(name):
                names.append(name)
                taken.add(key)
            else:
                mismatched[key] = None
        if len(names) > rule.max:
            context.refuse(Refusal.LIMIT, f"more than {rule.max} names of kind {rule.kind}")
            names = []
        elif len(names) < rule.min:
            context.refuse(Refusal.BAD_NAME, f"needs at least {rule.min} name(s) of kind {rule.kind}")
        for name in names:
            found.add(name)
            if rule.kind not in found.first:
                found.first[rule.kind] = _text_of(name)

    def finish(self, context: Context, found: _Found, subject: x509.Name) -> tuple[x509.GeneralName, ...]:
        """Add what is copied from the subject, then look at the counts and at what was asked for beyond."""
        if self.rules.copy_common_name:
            for item in subject.get_attributes_for_oid(NameOID.COMMON_NAME):
                self._copy_host(context, found, str(item.value))
        if self.rules.copy_mail:
            for item in subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
                found.add(x509.RFC822Name(str(item.value)))
        names = tuple(found.names.values())
        if len(names) > self.rules.max:
            context.refuse(Refusal.LIMIT, f"{len(names)} alternative names, at most {self.rules.max} allowed")
        if len(names) < self.rules.min and not found.refused:
            context.refuse(Refusal.BAD_NAME, f"needs at least {self.rules.min} alternative name(s)")
        self._check_others(context, found)
        return names

    def _copy_host(self, context: Context, found: _Found, value: str) -> None:
        if (address := text.address_of(value)) is not None:
            found.add(x509.IPAddress(address))
            return
        if "*" not in value and " " in value:
            return  # a common name that is not meant to be a host
        try:
            name = make(SanKind.DNS, value, wildcard=self._wildcard)
        except SanError as error:
            if "*" in value:
                context.refuse(Refusal.BAD_NAME, f"common_name {text.show(value)} {error}")
            return
        if self._dns and not any(part.matches(name) for part in self._dns):
            context.refuse(Refusal.BAD_NAME, f"common_name {text.show(value)} matches no pattern for host names")
        found.add(name)

    def _check_others(self, context: Context, found: _Found) -> None:
        own = context.record.sans
        if own is not None:
            for asked in context.names:
                if not _is_in(asked, found):
                    context.refuse_name(str(asked.kind), f"the registered {asked}", "is not taken by the template")
        wished = context.names if own is None else tuple(AskedName.of(name) for name in context.wishes.sans)
        for asked in wished:
            if _is_in(asked, found) or (own is None and asked.kind in self._consumed):
                continue
            if self.rules.others is OtherWishes.IGNORE:
                context.ignore_name(str(asked))
            else:
                why = asked.problem or "is not for this requester to ask for"
                context.refuse_name(str(asked.kind), str(asked), why)


def _is_in(asked: AskedName, found: _Found) -> bool:
    """Whether the name is in the certificate, or already refused for a better reason."""
    if asked.kind is not None and (asked.kind, asked.text) in found.refused:
        return True
    return comparable(asked.name) in found.names


def _text_of(name: x509.GeneralName) -> str:
    return AskedName.of(name).text
