"""Settings of an authority that cannot work are refused when they are written, at their line, with what is allowed."""

from __future__ import annotations

import pytest

from pkiserver.authority.settings import AuthoritySettings
from pkiserver.foundation.tomlfile import ConfigurationError, load


@pytest.mark.parametrize(
    ("table", "line", "told"),
    [
        ("ocsp", 'key_type = "foo"', "allowed: rsa-2048 to rsa-8192"),
        ("ocsp", 'further_key_types = ["ec-p256", "rsa-1"]', "unknown key type 'rsa-1'"),
        ("ocsp", 'unknown_validity = "20d"', "an answer must not outlive its signer"),
        ("ocsp", 'certificate_validity = "1000000d"', "too long (allowed: 1s to 10y)"),
        ("ocsp", 'archive = "99999999d"', "too long (allowed: 0s to 100y)"),
        ("crl", 'validity = "99999999d"', "too long (allowed: 1s to 10y)"),
        ("crl", 'keep = "99999999d"', "too long (allowed: 0s to 100y)"),
        ("crl", 'gather = "100d"', "too long (allowed: 0s to 1d)"),
        ("crl", "points = []", "no list is issued"),
        ("publication", 'base_url = "localhost"', "allowed: for instance http://pki.example.com"),
        ("publication", 'base_url = "ftp://pki.example.com"', "is not where answers are found"),
        ("publication", 'base_url = "http://pki.example.com/ x"', "is not where answers are found"),
        ("publication", 'crl = ["{base}/crl/{paht}.crl"]', "{paht} (allowed: {base} and {path})"),
        ("publication", 'ocsp = ["{base}/o csp"]', "is not an http or ldap URL"),
        ("publication", 'delta = ["{base}/crl/{path}.crl"]', "a complete list and a delta cannot both be at"),
    ],
)
def test_what_cannot_work_is_refused(table: str, line: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(AuthoritySettings, f"[{table}]\n{line}\n", "issuing.toml")
    [problem] = map(str, caught.value.problems)
    assert told in problem
    assert problem.startswith(("issuing.toml:2: ", "issuing.toml:1: "))


def test_what_works_is_taken() -> None:
    text = """
[publication]
base_url = "http://[2001:db8::1]:8080/pki"
crl = ["{base}/crl/{path}.crl", "ldap://ldap.example.com/cn={path},dc=example?certificateRevocationList;binary"]
[crl]
gather = "0s"
[ocsp]
key_type = "ec-p256"
further_key_types = ["rsa-2048"]
"""
    settings = load(AuthoritySettings, text, "issuing.toml")
    assert settings.publication.urls(settings.publication.ocsp, "1") == ("http://[2001:db8::1]:8080/pki/ocsp",)
