"""What csrattrs asks for is what the template enforces: a client that follows it is not refused for want of a name."""

from __future__ import annotations

import subprocess

import pytest

from pkiserver.authority.templates.model import Template
from pkiserver.foundation.tomlfile import load
from protocols.est.csrattrs import encode_csr_attributes

NEEDS = """
name = "t"
issuer = "i"
keys = ["ec-p256"]
[validity]
duration = "1d"
[subject]
required = ["common_name", "organization"]
[[subject.parts]]
attribute = "organization"
from = "fixed"
value = "Example"
[[subject.parts]]
attribute = "common_name"
"""


def asn1parse(der: bytes) -> str:
    done = subprocess.run(["openssl", "asn1parse", "-inform", "DER"], input=der, capture_output=True, check=True)
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("part", "asked"),
    [
        ('from = "request"\n', "commonName"),
        ('from = "request"\ndefault = "{record.name}"\n', None),
        ('from = "san"\nsans = ["dns"]\n[[sans.parts]]\nkind = "dns"\nfrom = "request"\n', "Subject Alternative Name"),
        ('from = "san"\nsans = ["dns"]\n[[sans.parts]]\nkind = "dns"\nfrom = "record"\n', None),
    ],
)
def test_csr_attributes_ask_for_what_the_whole_subject_must_have(part: str, asked: str | None) -> None:
    """``[subject] required`` is enforced as ``required`` of a part is: a client that was not told is refused."""
    printed = asn1parse(encode_csr_attributes(load(Template, NEEDS + part, "t")))
    assert "organizationName" not in printed, "the template gives it"
    for name in ("commonName", "Subject Alternative Name"):
        assert (name in printed) == (name == asked), name
