"""Which rule is met, as a table: evidence in, yes or all reasons out."""

from __future__ import annotations

import pytest

from pkiserver.authority.templates.library import load_template
from pkiserver.authority.templates.model import EvidenceKind
from pkiserver.foundation.errors import Reason, Refusal
from pkiserver.registration.identities import Findings, Identity
from pkiserver.registration.rules import Match, match
from tests.support.engines import template_text

ALICE = Identity(EvidenceKind.PASSWORD, "alice", frozenset({"staff"}))
BOB = Identity(EvidenceKind.PASSWORD, "bob")
CODE = Identity(EvidenceKind.CODE, "enroll-code:7", code_id=7)
OWN = Identity(EvidenceKind.CLIENT_CERTIFICATE, "alice", authority="issuing", template="device")
OTHER = Identity(EvidenceKind.CLIENT_CERTIFICATE, "alice", authority="elsewhere", template="device")
PASSWORD = '[[evidence]]\nall = ["password"]\n'
STAFF = '[[evidence]]\nall = ["password"]\ngroups = ["staff"]\n'
BOTH = '[[evidence]]\nall = ["password", "client_certificate"]\n'
CERTIFICATE = '[[evidence]]\nall = ["client_certificate"]\n'
FROM_ELSEWHERE = '[[evidence]]\nall = ["client_certificate"]\nissuers = ["elsewhere"]\n'
OF_PRINTER = '[[evidence]]\nall = ["client_certificate"]\ntemplates = ["printer"]\n'
CLI_ONLY = '[[evidence]]\nall = ["password"]\nprotocols = ["cli"]\n'
APPROVED = '[[evidence]]\nall = ["password"]\napproval = true\n'
CODE_RULE = '[[evidence]]\nall = ["code"]\n'


@pytest.mark.parametrize(
    ("rules", "identities", "name"),
    [
        (PASSWORD, (BOB,), "bob"),
        (STAFF, (ALICE,), "alice"),
        (BOTH, (ALICE, OWN), "alice"),
        (CERTIFICATE, (OWN,), "alice"),
        (FROM_ELSEWHERE, (OTHER,), "alice"),
        (CODE_RULE, (CODE,), "enroll-code:7"),
        (STAFF + CODE_RULE, (BOB, CODE), "enroll-code:7"),
    ],
)
def test_enough_evidence(rules: str, identities: tuple[Identity, ...], name: str) -> None:
    found = match(load_template(template_text("t", rules), "t"), "est", Findings(identities, ()))
    assert isinstance(found, Match)
    assert found.record.name == name


@pytest.mark.parametrize(
    ("rules", "identities", "code"),
    [
        ("", (ALICE,), Refusal.NOT_AUTHORISED),
        (CLI_ONLY, (ALICE,), Refusal.NOT_AUTHORISED),
        (PASSWORD, (), Refusal.NOT_AUTHENTICATED),
        (PASSWORD, (OWN,), Refusal.NOT_AUTHENTICATED),
        (STAFF, (BOB,), Refusal.NOT_AUTHORISED),
        (BOTH, (ALICE,), Refusal.NOT_AUTHENTICATED),
        (BOTH, (OWN,), Refusal.NOT_AUTHENTICATED),
        (CERTIFICATE, (OTHER,), Refusal.NOT_AUTHORISED),
        (FROM_ELSEWHERE, (OWN,), Refusal.NOT_AUTHORISED),
        (OF_PRINTER, (OWN,), Refusal.NOT_AUTHORISED),
        (CODE_RULE, (ALICE, OWN), Refusal.NOT_AUTHENTICATED),
    ],
)
def test_not_enough(rules: str, identities: tuple[Identity, ...], code: Refusal) -> None:
    reasons = match(load_template(template_text("t", rules), "t"), "est", Findings(identities, ()))
    assert not isinstance(reasons, Match)
    assert code in {reason.code for reason in reasons}


def test_every_reason_is_told_once() -> None:
    wrong = Reason(Refusal.NOT_AUTHENTICATED, "the name or the password is wrong")
    text = template_text("t", BOTH + STAFF + CODE_RULE)
    reasons = match(load_template(text, "t"), "est", Findings((), (wrong,)))
    assert not isinstance(reasons, Match)
    texts = [reason.text for reason in reasons]
    assert texts == [
        wrong.text,
        "a name and password is needed",
        "a client certificate is needed",
        "an enrolment code is needed",
    ]


def test_a_rule_without_approval_comes_first_whatever_the_order() -> None:
    template = load_template(template_text("t", APPROVED + PASSWORD), "t")
    found = match(template, "est", Findings((ALICE,), ()))
    assert isinstance(found, Match)
    assert not found.rule.approval


def test_a_code_is_spent_only_where_the_rule_that_was_met_asks_for_it() -> None:
    template = load_template(template_text("t", PASSWORD + CODE_RULE), "t")
    found = match(template, "est", Findings((ALICE, CODE), ()))
    assert isinstance(found, Match)
    assert found.codes == ()
