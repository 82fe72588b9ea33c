"""Which of a template's evidence rules is met. Pure: values in, a decision out; no rule met means no."""

from __future__ import annotations

import attrs

from pkiserver.authority.requests import Claim, RegistrationRecord
from pkiserver.authority.templates.model import INTERNAL, EvidenceKind, EvidenceRule, Template
from pkiserver.foundation.errors import Reason, Refusal
from pkiserver.registration.identities import USERID, Findings, Identity

_BY_NAME = frozenset({EvidenceKind.PASSWORD, EvidenceKind.CLIENT_CERTIFICATE})
"""Evidence that shows somebody by name; what else there is is a challenge, or an operator who asks for others."""


@attrs.frozen
class Match:
    """The rule that was met and the identities that met it, in the rule's order."""

    rule: EvidenceRule
    identities: tuple[Identity, ...]

    @property
    def record(self) -> RegistrationRecord:
        """Who it is: the first identity gives the name; a binding subject or name set comes from whoever has one."""
        first = self.identities[0]
        return RegistrationRecord(
            name=first.name,
            groups=frozenset().union(*(one.groups for one in self.identities)),
            attributes=self._attributes(),
            subject=next((one.subject for one in self.identities if one.subject is not None), None),
            sans=next((one.sans for one in self.identities if one.sans is not None), None),
            notes=tuple(note for one in self.identities for note in one.notes),
            nameless=first.kind not in _BY_NAME,
        )

    def _attributes(self) -> tuple[tuple[str, str], ...]:
        """Those of all identities, each once; like the name, the plain user name is the first one's."""
        named = next((one for one in self.identities if any(key == USERID for key, _ in one.attributes)), None)
        pairs = ((one, pair) for one in self.identities for pair in one.attributes)
        return tuple(dict.fromkeys(pair for one, pair in pairs if pair[0] != USERID or one is named))

    @property
    def claims(self) -> tuple[Claim, ...]:
        """What connectors want spent by this decision."""
        return tuple(claim for one in self.identities for claim in one.claims)

    @property
    def undecided(self) -> Identity | None:
        """Somebody whose connector has not decided yet."""
        return next((one for one in self.identities if one.retry_after), None)

    @property
    def codes(self) -> tuple[int, ...]:
        """The enrolment codes that are spent by this decision."""
        return tuple(one.code_id for one in self.identities if one.code_id is not None)


def match(template: Template, protocol: str, findings: Findings) -> Match | tuple[Reason, ...]:
    """The first rule that is met, one without approval before one with; or every reason why none is."""
    rules = template.evidence_for(protocol)
    if not rules:
        text = f"template {template.name} entitles nobody to enrol by {protocol}"
        return (Reason(Refusal.NOT_AUTHORISED, text),)
    reasons: list[Reason] = list(findings.failures)
    for rule in sorted(rules, key=lambda one: (one.approval, EvidenceKind.ANONYMOUS in one.all)):
        outcome = _meet(rule, template, findings)
        if isinstance(outcome, Match):
            return outcome
        reasons.extend(reason for reason in outcome if reason not in reasons)
    return tuple(reasons)


def _meet(rule: EvidenceRule, template: Template, findings: Findings) -> Match | list[Reason]:
    shown: list[Identity] = []
    reasons: list[Reason] = []
    for kind in rule.all:
        identity = findings.of(kind, rule.accepted_from)
        if identity is None:
            reasons.append(Reason(Refusal.NOT_AUTHENTICATED, f"{_WANTED[kind]} is needed"))
        elif reason := _unsuitable(rule, template, identity):
            reasons.append(reason)
        else:
            shown.append(identity)
    if reasons:
        return reasons
    groups = frozenset().union(*(one.groups for one in shown))
    if rule.groups and not groups.intersection(rule.groups):
        return [Reason(Refusal.NOT_AUTHORISED, f"{shown[0].name} is in none of the groups that may have this")]
    return Match(rule, tuple(shown))


_WANTED = {
    EvidenceKind.PASSWORD: "a name and password",
    EvidenceKind.CLIENT_CERTIFICATE: "a client certificate",
    EvidenceKind.CODE: "an enrolment code",
    EvidenceKind.SHARED_SECRET: "a shared secret",
    EvidenceKind.SELF_SIGNED: "a request signed with its own key",
    EvidenceKind.OPERATOR: "an operator",
    EvidenceKind.ANONYMOUS: "nothing",
}


def _unsuitable(rule: EvidenceRule, template: Template, identity: Identity) -> Reason | None:
    if identity.kind is not EvidenceKind.CLIENT_CERTIFICATE or identity.connector != INTERNAL:
        return None
    if identity.authority not in (rule.issuers or (template.issuer,)):
        return Reason(Refusal.NOT_AUTHORISED, "client certificates of that authority do not count here")
    if rule.templates and identity.template not in rule.templates:
        return Reason(Refusal.NOT_AUTHORISED, "client certificates of that template do not count here")
    return None
