"""Extensions that a request asks for: taken over, left out or refused, as the template says."""

from __future__ import annotations

import attrs

from pkiserver.authority.extensions import Extension, raw_extension
from pkiserver.authority.requests import RequestedExtension
from pkiserver.authority.templates import encoding
from pkiserver.authority.templates.context import Context
from pkiserver.authority.templates.model_extensions import ExtendedKeyUsageRules, OtherExtensions, RequestExtensionRules
from pkiserver.authority.templates.text import oid_problem
from pkiserver.authority.templates.usages import CA_USAGES, NAME_OF_USAGE, Usage
from pkiserver.authority.templates.values import element_problem
from pkiserver.foundation import der
from pkiserver.foundation.errors import Refusal

KEY_USAGE, ALTERNATIVE_NAMES, BASIC_CONSTRAINTS, EXTENDED_KEY_USAGE = (
    "2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.37",
)  # fmt: skip
SUBJECT_KEY_IDENTIFIER = "2.5.29.14"
# Asking for one of these is asking for power: to bound or map policies, to be qualified, to be an account, a CT log's
# precertificate, or to be trusted without a status check.
_POWERS = {
    "2.5.29.30": "name constraints",
    "2.5.29.33": "policy mappings",
    "2.5.29.36": "policy constraints",
    "2.5.29.54": "inhibit any policy",
    "1.3.6.1.5.5.7.1.3": "qualified certificate statements",
    "1.3.6.1.4.1.311.25.2": "an account's SID",
    "1.3.6.1.4.1.11129.2.4.3": "a precertificate",
    "1.3.6.1.5.5.7.48.1.5": "trust without a status check",
}
MAX_EXTENSIONS = 64


@attrs.frozen
class Granted:
    """What the certificate will have whatever the client asks: its usages and, without a wish, its purposes."""

    usages: frozenset[Usage]
    purposes: tuple[str, ...]


class RequestedExtensions:
    """The rules of one template for extensions in requests."""

    def __init__(self, rules: RequestExtensionRules, purposes: ExtendedKeyUsageRules | None) -> None:
        self._rules = rules
        self._allowed = {oid.value for oid in rules.allow}
        self._may_ask = frozenset(usage.oid for usage in purposes.from_request) if purposes else frozenset[str]()

    def apply(self, context: Context, granted: Granted) -> tuple[list[Extension], tuple[str, ...]]:
        """The extensions taken over, and the purposes that the certificate gets."""
        asked = context.wishes.extensions
        if len(asked) > MAX_EXTENSIONS:
            context.refuse(Refusal.LIMIT, f"{len(asked)} extensions asked for, at most {MAX_EXTENSIONS} are looked at")
            return [], granted.purposes
        oids = [item.oid for item in asked]
        if len(set(oids)) != len(oids):
            context.refuse(Refusal.BAD_EXTENSION, "the request asks for the same extension twice")
        taken: list[Extension] = []
        purposes = granted.purposes
        for item in asked:
            if item.oid in self._allowed:
                self._take(context, item, taken)
            elif item.oid == EXTENDED_KEY_USAGE and self._may_ask:
                purposes = self._purposes(context, item, granted)
            elif item.oid != ALTERNATIVE_NAMES:
                self._other(context, item, granted)
        return taken, purposes

    def _take(self, context: Context, item: RequestedExtension, taken: list[Extension]) -> None:
        if len(item.value) > self._rules.max_octets:
            context.refuse(Refusal.LIMIT, f"extension {item.oid} has more than {self._rules.max_octets} octets")
        elif problem := element_problem(item.value):
            context.refuse(Refusal.BAD_EXTENSION, f"extension {item.oid} {problem}")
        else:
            taken.append(raw_extension(item.oid, item.value))

    def _purposes(self, context: Context, item: RequestedExtension, granted: Granted) -> tuple[str, ...]:
        try:
            purposes = tuple(dict.fromkeys(encoding.read_purposes(item.value)))
        except der.NotDer:
            context.refuse(Refusal.BAD_EXTENSION, "the extended key usage asked for cannot be read")
            return granted.purposes
        beyond = [oid for oid in purposes if oid not in self._may_ask and oid not in granted.purposes]
        if beyond:
            if self._rules.others is not OtherExtensions.IGNORE:
                names = ", ".join(NAME_OF_USAGE.get(oid, oid) for oid in beyond)
                context.refuse(Refusal.BAD_EXTENSION, f"extended key usage {names} is not given by the template")
            context.ignored += [f"extended key usage {NAME_OF_USAGE.get(oid, oid)}" for oid in beyond]
        return tuple(oid for oid in purposes if oid not in beyond) or granted.purposes

    def _other(self, context: Context, item: RequestedExtension, granted: Granted) -> None:
        power = asks_for_power(item, granted)
        name = item.oid if oid_problem(item.oid) is None else "?"
        if self._rules.others is OtherExtensions.IGNORE:
            if power is None and _is_granted(item, granted):
                return
            context.ignored.append(f"extension {name}" + (f" ({power})" if power else ""))
        elif power is not None:
            context.refuse(Refusal.BAD_EXTENSION, f"the request asks for {power}, which the template does not give")
        elif _is_granted(item, granted):
            return
        elif self._rules.others is OtherExtensions.REFUSE:
            context.refuse(Refusal.BAD_EXTENSION, f"extension {name} is not taken from a request")
        else:
            context.ignored.append(f"extension {name}")


def asks_for_power(item: RequestedExtension, granted: Granted) -> str | None:
    """In words, the power that an extension asks for beyond what is granted; None when it asks for none."""
    if item.oid in _POWERS:
        return _POWERS[item.oid]
    try:
        if item.oid == BASIC_CONSTRAINTS:
            is_ca = Usage.KEY_CERT_SIGN in granted.usages
            return "a CA certificate (basic constraints)" if encoding.asks_for_ca(item.value) and not is_ca else None
        if item.oid == KEY_USAGE:
            beyond = (encoding.read_usages(item.value) & CA_USAGES) - granted.usages
            return f"key usage {', '.join(sorted(beyond))}" if beyond else None
        if item.oid == EXTENDED_KEY_USAGE:
            asked = [oid for oid in encoding.read_purposes(item.value) if oid not in granted.purposes]
            names = ", ".join(NAME_OF_USAGE.get(oid, oid) for oid in asked)
            return f"extended key usage {names}" if asked else None
    except der.NotDer:
        return "an extension that cannot be read"
    return None


def _is_granted(item: RequestedExtension, granted: Granted) -> bool:
    """Whether the certificate says this, or more, anyway."""
    if item.oid in {BASIC_CONSTRAINTS, EXTENDED_KEY_USAGE, SUBJECT_KEY_IDENTIFIER}:
        return True
    try:
        return item.oid == KEY_USAGE and encoding.read_usages(item.value) <= granted.usages
    except der.NotDer:
        return False
