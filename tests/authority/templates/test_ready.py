"""The ready templates: each builds, passes pkilint at its own level, and is what its purpose needs."""

from __future__ import annotations

import ipaddress
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pkiserver.authority.checks.lint import Linter
from pkiserver.authority.checks.lintlevel import LintLevel
from pkiserver.authority.templates.library import ready_names, ready_template

from .helpers import build, cn, issuer, key, name, request, signed

EXPECTED = {
    "tls-server",
    "tls-client",
    "device",
    "8021x-machine",
    "user",
    "smime",
    "smime-sign",
    "smime-encrypt",
    "code-signing",
    "smartcard-logon",
    "domain-controller",
    "ocsp-signing",
    "timestamping",
    "scep-ra",
    "cmp-ra",
    "cmp-kga",
    "subordinate-ca",
}
HOST = (cn("host.example.com"), (x509.DNSName("host.example.com"),))
UNIT = (name((NameOID.COUNTRY_NAME, "SE"), (NameOID.ORGANIZATION_NAME, "Example"), (NameOID.COMMON_NAME, "Unit 1")), ())
ASKED = {
    "tls-server": (HOST[0], (*HOST[1], x509.IPAddress(ipaddress.ip_address("192.0.2.1")))),
    "8021x-machine": HOST,
    "domain-controller": HOST,
    "device": (
        name((NameOID.COMMON_NAME, "sensor-1"), (NameOID.SERIAL_NUMBER, "00-11")),
        (x509.DNSName("sensor-1.example.com"),),
    ),
    **dict.fromkeys(("ocsp-signing", "timestamping", "scep-ra", "cmp-ra", "cmp-kga", "subordinate-ca"), UNIT),
}
OPENSSL_PURPOSE = {
    "tls-server": "sslserver",
    "tls-client": "sslclient",
    "8021x-machine": "sslclient",
    "smime": "smimesign",
    "smime-sign": "smimesign",
    "smime-encrypt": "smimeencrypt",
    "timestamping": "timestampsign",
    "ocsp-signing": "ocsphelper",
    "domain-controller": "sslserver",
}
LINTER = Linter()
CASES = [(each, str(kind)) for each in sorted(EXPECTED) for kind in ready_template(each).keys]


def test_all_of_them_ship() -> None:
    assert set(ready_names()) == EXPECTED


@pytest.mark.parametrize("each", sorted(EXPECTED))
def test_names_and_ways_are_right(each: str) -> None:
    made = ready_template(each)
    assert made.name == each
    assert made.issuer == ("root" if each == "subordinate-ca" else "issuing")
    assert made.evidence, "nobody could ever have one"
    assert made.description


@pytest.mark.parametrize(
    ("each", "kind"), [case for case in CASES if case[1] in {"ec-p256", "rsa-3072", "ed25519", "ml-dsa-65"}]
)
def test_each_passes_pkilint_at_its_level_with_each_kind_of_key(each: str, kind: str) -> None:
    made = ready_template(each)
    assert made.lint in {LintLevel.ERROR, LintLevel.WARNING, LintLevel.NOTICE}
    subject, sans = ASKED.get(each, (None, ()))
    content = build(made, request(subject, *sans, kind=kind, protocol=made.protocols[0]))
    refused, _ = LINTER.check(signed(content, key(kind).public_key()).public_bytes(Encoding.DER), made.lint)
    assert [reason.text for reason in refused] == []


@pytest.mark.parametrize("each", sorted(OPENSSL_PURPOSE))
def test_openssl_finds_each_fit_for_its_purpose(each: str, tmp_path: Path) -> None:
    made = ready_template(each)
    subject, sans = ASKED.get(each, (None, ()))
    kind = str(made.keys[0])
    content = build(made, request(subject, *sans, kind=kind, protocol=made.protocols[0]))
    leaf, ca = tmp_path / "leaf.pem", tmp_path / "ca.pem"
    leaf.write_bytes(signed(content, key(kind).public_key()).public_bytes(Encoding.PEM))
    ca.write_bytes(issuer().certificate.public_bytes(Encoding.PEM))
    moment = str(int(content.not_before.timestamp()) + 600)
    arguments: list[str | Path] = ["openssl", "verify", "-CAfile", ca, "-attime", moment, "-x509_strict"]
    if (purpose := OPENSSL_PURPOSE[each]) != "ocsphelper":
        arguments += ["-purpose", purpose]
    done = subprocess.run([*arguments, leaf], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_pair_for_mail_shares_nothing() -> None:
    signs, encrypts = ready_template("smime-sign").key_usage, ready_template("smime-encrypt").key_usage
    assert signs is not None
    assert encrypts is not None
    assert not set(signs.usages) & set(encrypts.usages)


def test_the_examples_in_conf_are_the_same_files() -> None:
    shown = Path(__file__).parents[3] / "conf" / "templates"
    shipped = Path(__file__).parents[3] / "pkiserver" / "authority" / "ready"
    assert shown.resolve() == shipped.resolve()
