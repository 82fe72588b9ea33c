"""Rules that no client of a protocol can meet are pointed out when a template is applied."""

from __future__ import annotations

import pytest

from pkiserver.authority.templates.library import load_template
from pkiserver.authority.templates.reach import unreachable

TEXT = """
name = "t"
issuer = "issuing"
protocols = [{protocols}]
keys = ["rsa-2048"]
[validity]
duration = "90d"
{rules}
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[key_usage]
usages = ["digital_signature"]
[scep]
{scep}
"""
COST, SALT = "$argon2id$v=19$m=19456,t=2,p=1", "P/mW0EUUk7TG18rYdQtqiA"
HASH = f'static_challenge = "{COST}${SALT}$gLzfF+jQFL8rgR+naywkGFQ7/BGy7bBM35xUDnT7fwc"'


@pytest.mark.parametrize(
    ("protocols", "rule", "scep", "nobody_by"),
    [
        ("est", 'all = ["password"]', "", []),
        ("scep", 'all = ["password"]', "", ["scep"]),
        ("est,scep", 'all = ["password"]', "", ["scep"]),
        ("est,scep", 'all = ["code"]', "", []),
        # HTTP Basic carries one of them, and so does the challengePassword
        ("est,scep", 'all = ["code", "password"]', "", ["est", "scep"]),
        ("scep", 'all = ["code", "shared_secret"]', HASH, ["scep"]),
        ("est,scep", 'all = ["code", "client_certificate"]', "", []),
        ("est,scep", 'all = ["self_signed"]\napproval = true', "", ["est"]),
        ("scep", 'all = ["shared_secret"]', "", ["scep"]),
        ("scep", 'all = ["shared_secret"]', HASH, []),
        ("est,scep", 'all = ["shared_secret"]\nconnectors = ["mdm"]', "", ["est"]),
        ("est", 'all = ["operator"]', "", ["est"]),
        ("cli,cmp", 'all = ["operator"]', "", []),
        ("est,scep", 'all = ["anonymous"]', "", []),
        ("est,scep", 'all = ["code"]\ngroups = ["staff"]', "", ["est", "scep"]),
        ("est,scep", 'all = ["code"]\nprotocols = ["est"]', "", ["scep"]),
    ],
)
def test_protocols_by_which_nobody_could_enrol(protocols: str, rule: str, scep: str, nobody_by: list[str]) -> None:
    named = ", ".join(f'"{one}"' for one in protocols.split(","))
    text = TEXT.format(protocols=named, rules=f"[[evidence]]\n{rule}", scep=scep)
    found = list(unreachable(load_template(text, "t.toml")))
    assert [one.split("nobody can enrol by ")[1].split(":")[0] for one in found] == nobody_by


def test_a_template_without_rules_is_for_renewals_only() -> None:
    [said] = unreachable(load_template(TEXT.format(protocols='"est"', rules="", scep=""), "t.toml"))
    assert "nobody can enrol by est" in said
