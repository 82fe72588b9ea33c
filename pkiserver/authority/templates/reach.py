"""Which of a template's protocols nobody could enrol by, because none of its rules can be met there."""

from __future__ import annotations

from collections.abc import Iterable

from pkiserver.authority.templates.model import INTERNAL, EnrollmentProtocol, EvidenceKind, EvidenceRule, Template

_CARRIES = {
    EnrollmentProtocol.EST: frozenset(
        {EvidenceKind.PASSWORD, EvidenceKind.CODE, EvidenceKind.CLIENT_CERTIFICATE, EvidenceKind.ANONYMOUS}
    ),
    EnrollmentProtocol.SCEP: frozenset(
        {
            EvidenceKind.CODE,
            EvidenceKind.SHARED_SECRET,
            EvidenceKind.SELF_SIGNED,
            EvidenceKind.CLIENT_CERTIFICATE,
            EvidenceKind.ANONYMOUS,
        }
    ),
}
"""What clients of a protocol can show; of protocols that are not here nothing is said."""
_ONE_PLACE = (
    frozenset({EvidenceKind.PASSWORD, EvidenceKind.CODE}),
    frozenset({EvidenceKind.SHARED_SECRET, EvidenceKind.CODE}),
)
"""What travels where the other would: HTTP Basic's password, SCEP's challengePassword."""
_IN_GROUPS = frozenset({EvidenceKind.PASSWORD, EvidenceKind.CLIENT_CERTIFICATE})
"""What shows somebody whose groups are known."""


def unreachable(template: Template) -> Iterable[str]:
    """Protocols that are allowed and by which nobody can have a first certificate, a sentence each."""
    for protocol in template.protocols:
        carried = _CARRIES.get(protocol)
        if carried is None or any(_met(template, rule, carried) for rule in template.evidence_for(protocol)):
            continue
        kinds = ", ".join(sorted(carried))
        yield f"template {template.name}: nobody can enrol by {protocol}: no rule can be met there (it carries {kinds})"


def _met(template: Template, rule: EvidenceRule, carried: frozenset[EvidenceKind]) -> bool:
    wanted = set(rule.all)
    if not wanted <= carried or any(both <= wanted for both in _ONE_PLACE):
        return False
    asks_service = any(name != INTERNAL for name in rule.accepted_from)
    if rule.groups and not (asks_service or _IN_GROUPS & wanted):
        return False  # a code and a challenge are in no group
    # the only challenge that this server knows by itself is the template's static one
    return EvidenceKind.SHARED_SECRET not in rule.all or asks_service or bool(template.scep.static_challenge)
