"""Settings of an authority that cannot work are refused when they are written, at their line, with what is allowed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.authority.settings import AuthoritySettings
from pkiserver.authority.validation.settings import load_foreign
from pkiserver.foundation.tomlfile import ConfigurationError, load

KEY = ec.generate_private_key(ec.SECP256R1())
NAME = x509.Name.from_rfc4514_string("CN=Theirs")
NOW = datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("table", "line", "told"),
    [
        ("ocsp", 'key_type = "foo"', "allowed: rsa-2048 to rsa-8192"),
        ("ocsp", 'further_key_types = ["ec-p256", "rsa-1"]', "unknown key type 'rsa-1'"),
        ("ocsp", 'unknown_validity = "20d"', "an answer must not outlive its signer"),
        ("ocsp", 'certificate_validity = "1000000d"', "too long (allowed: 1s to 10y)"),
        ("ocsp", 'archive = "99999999d"', "too long (allowed: 0s to 1000y)"),
        ("crl", 'validity = "99999999d"', "too long (allowed: 1s to 10y)"),
        ("crl", 'keep = "99999999d"', "too long (allowed: 0s to 1000y)"),
        ("crl", 'gather = "100d"', "too long (allowed: 0s to 1d)"),
        ("crl", "points = []", "no list is issued"),
        ("publication", 'base_url = "localhost"', "allowed: for instance http://pki.example.com"),
        ("publication", 'base_url = "ftp://pki.example.com"', "is not where answers are found"),
        ("publication", 'base_url = "http://pki.example.com/ x"', "is not where answers are found"),
        ("publication", 'crl = ["{base}/crl/{paht}.crl"]', "{paht} (allowed: {base}, {path} and {name})"),
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


def test_times_of_another_authority_are_bounded_too() -> None:
    ca = x509.CertificateBuilder(NAME, NAME, KEY.public_key(), 1, NOW, NOW + timedelta(days=9))
    ca = ca.add_extension(x509.BasicConstraints(True, None), critical=True)
    pem = ca.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    text = f'kind = "foreign-ca"\nname = "theirs"\nfeeds = ["http://pki.example/a.crl"]\ncertificate = """{pem}"""\n'
    for line in ('interval = "99999999d"', 'tolerance = "9999999d"', '[ocsp]\nvalidity = "99999999d"'):
        with pytest.raises(ConfigurationError, match="too long"):
            load_foreign(text + line, "theirs.toml")
    longest = load_foreign(text + '[ocsp]\nvalidity = "365d"\nunknown_validity = "365d"', "theirs.toml")
    assert longest.ocsp.policy().validity == longest.ocsp.policy().unknown_validity == timedelta(days=365)


def test_what_works_is_taken() -> None:
    text = """
[publication]
base_url = "http://[2001:db8::1]:8080/pki"
crl = ["{base}/crl/{path}.crl", "ldap://ldap.example.com/cn={name},dc=example?certificateRevocationList;binary"]
[crl]
gather = "0s"
[ocsp]
key_type = "ec-p256"
further_key_types = ["rsa-2048"]
"""
    settings = load(AuthoritySettings, text, "issuing.toml")
    assert settings.publication.urls(settings.publication.ocsp, "1") == ("http://[2001:db8::1]:8080/pki/ocsp",)
