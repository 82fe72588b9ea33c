"""``pkiserver template``, ``apply`` and ``export``, run as an administrator runs them, over a server with one CA."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.authority.lifecycle.ceremonies import KeyChoice, NewAuthority
from pkiserver.authority.lifecycle.certify import Actor
from pkiserver.authority.lifecycle.profile import CaProfile
from pkiserver.authority.settings import AuthoritySettings, Publication
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import load_file
from pkiserver.keys.algorithms import KeyType
from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.engine import open_engine
from tests.support.commands import configured, run, run_json
from tests.support.keys import software_store

ROOT = Path(__file__).parents[2]
READY = ROOT / "conf" / "templates"
OnReactor = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, on_reactor: OnReactor) -> Path:
    directory = tmp_path_factory.mktemp("node")
    path = configured(directory, software_store(directory))

    async def set_up() -> None:
        async with open_engine(load_file(NodeSettings, path)) as engine:
            subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test CA")])
            issuing = NewAuthority(
                name="issuing",
                subject=subject,
                profile=CaProfile(validity=timedelta(days=3650)),
                key=KeyChoice(key_type=KeyType.parse("ec-p256"), store="software"),
                settings=AuthoritySettings(publication=Publication(base_url="http://pki.example.com")),
            )
            await engine.road.ceremonies.create_root(issuing, Actor("test"))
            attributes = (("display_name", "Alice"), ("mail", "alice@example.com"))
            await engine.accounts.create("alice", Secret("correct horse battery"), attributes=attributes, by="test")

    on_reactor(set_up)
    return path


def audited(config: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(config.parent / "pkiserver.db") as database:
        return [(row[0], row[1]) for row in database.execute("SELECT kind, object FROM audit_event ORDER BY at, seq")]


def test_ready_templates_can_be_looked_at_without_a_database(tmp_path: Path) -> None:
    nowhere = tmp_path / "nothing.toml"
    names = {row["name"] for row in run_json(nowhere, "template", "list", "--ready")}
    assert {"tls-server", "smime-sign", "subordinate-ca"} <= names
    assert run(nowhere, "template", "show", "user", "--ready") == (READY / "user.toml").read_text()


def test_apply_shows_the_difference_then_makes_it_so(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    text = (READY / "tls-server.toml").read_text().replace('name = "tls-server"', 'name = "web"')
    file.write_text(text)
    shown = run(config, "apply", file, "--dry-run")
    assert "add template web" in shown
    assert '+name = "web"' in shown
    assert "--yes" in run(config, "apply", file, code=2)
    assert "1 changed" in run(config, "apply", file, "--yes")
    assert run(config, "template", "show", "web") == text

    file.write_text(text.replace('"90d"', '"30d"').replace('window = "30d"', 'window = "10d"'))
    changed = run_json(config, "apply", file, "--yes")
    assert changed["applied"] is True
    (change,) = changed["changes"]
    assert '-duration = "90d"' in change["difference"]
    assert '+duration = "30d"' in change["difference"]
    (row,) = [row for row in run_json(config, "template", "list") if row["name"] == "web"]
    assert (row["revision"], row["validity"]) == (2, 30 * 86400)

    assert "1 changed" in run(config, "apply", "--delete", "template/web", "--yes")
    assert audited(config).count(("configuration", "template web")) == 3


def test_apply_does_all_or_nothing(config: Path, tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    good.write_text((READY / "device.toml").read_text().replace('name = "device"', 'name = "good"'))
    bad = tmp_path / "bad.toml"
    bad.write_text((READY / "device.toml").read_text().replace('name = "device"', 'name = "simpleenroll"'))
    (tmp_path / "twin.toml").write_text(good.read_text())
    worse = tmp_path / "worse.toml"
    worse.write_text('kind = "template"\nname = "worse"\n')
    said = run(config, "apply", tmp_path, "--yes", code=1)
    assert f"{bad}:3: name:" in said
    assert "operation path of EST" in said
    assert f"{worse}:" in said
    assert "is missing" in said
    assert "good" not in run(config, "template", "list")
    assert f"template good is in {good} already" in said


def test_all_ready_templates_apply_and_export_brings_them_back(config: Path, tmp_path: Path) -> None:
    said = run(config, "apply", READY, "--yes")
    assert "17 changed" in said
    run(config, "export", "--dir", tmp_path)
    assert (tmp_path / "template" / "smime.toml").read_text() == (READY / "smime.toml").read_text()
    assert "nothing to change (18" in run(config, "apply", tmp_path / "template", tmp_path / "authority", "--yes")
    assert "there is no template nothing" in run(config, "export", "template/nothing", code=1)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_are_no_change(config: Path, tmp_path: Path, end: str) -> None:
    """A file without a last line end came back from the terminal with one, as a change without a difference."""
    file = tmp_path / "device.toml"
    lines = (READY / "tls-server.toml").read_text().replace('name = "tls-server"', 'name = "unended"').splitlines()
    file.write_bytes(end.join(lines).encode())
    run(config, "apply", file, "--yes")
    file.write_text(run(config, "export", "template/unended"))
    assert "nothing to change (1" in run(config, "apply", file, "--yes")
    run(config, "apply", "--delete", "template/unended", "--yes")


def test_settings_of_an_authority_are_applied_too(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "issuing.toml"
    file.write_text(run(config, "export", "authority/issuing").replace("pki.example.com", "ca.example.org"))
    assert "change authority issuing" in run(config, "apply", file, "--yes")
    file.write_text(file.read_text().replace('name = "issuing"', 'name = "absent"'))
    assert "pkiserver ca" in run(config, "apply", file, "--yes", code=1)


def test_what_cannot_be_is_refused_before_anything_is_asked(config: Path) -> None:
    assert "not removed" in run(config, "apply", "--delete", "authority/issuing", "--yes", code=1)


def csr(tmp_path: Path, subject: str, *sans: x509.GeneralName, ca: bool = False) -> Path:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name.from_rfc4514_string(subject))
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), False)
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(True, None), True)
    file = tmp_path / "request.csr"
    file.write_bytes(builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM))
    return file


def test_template_test_shows_what_would_be_issued(config: Path, tmp_path: Path) -> None:
    request = csr(tmp_path, "CN=www.example.com,O=Somebody", x509.DNSName("mail.example.com"))
    told = run_json(config, "template", "test", request, "--template", READY / "tls-server.toml")
    assert told["would_be_issued"] is True
    assert told["subject"] == "CN=www.example.com"
    assert told["subjectAltName"] == "dns:mail.example.com, dns:www.example.com"
    assert told["keyUsage"] == "digital_signature (critical)"
    assert told["left_out"] == ["subject organization 'Somebody'"]
    assert told["evidence"] == ["code", "operator", "password, in group tls-server"]


def test_template_test_says_why_not_with_every_reason(config: Path, tmp_path: Path) -> None:
    request = csr(tmp_path, "CN=Bob", x509.RFC822Name("bob@example.com"), ca=True)
    said = run(config, "template", "test", request, "--template", READY / "user.toml", "--account", "alice", code=1)
    assert "'Bob' is not for this requester" in said
    assert "'bob@example.com' is not for this requester" in said
    assert "basic constraints" in said
    fine = csr(tmp_path, "CN=Alice", x509.RFC822Name("alice@example.com"))
    told = run_json(config, "template", "test", fine, "--template", READY / "user.toml", "--account", "alice")
    assert told["subject"] == "UID=alice,CN=Alice"
    assert "no account" in run(
        config, "template", "test", fine, "--template", READY / "user.toml", "--account", "zoe", code=1
    )


def test_template_test_reads_the_names_that_scep_would_read(config: Path, tmp_path: Path) -> None:
    (tmp_path / "old.cnf").write_bytes(
        "[req]\nprompt=no\nstring_mask=nombstr\ndistinguished_name=dn\n[dn]\nCN=Müller\n".encode("latin-1")
    )
    command = "openssl req -new -newkey rsa:2048 -nodes -keyout k -config old.cnf -out old.csr"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    text = (READY / "device.toml").read_text()
    (tmp_path / "old.toml").write_text(f"{text}\n[scep]\nlatin1 = true\n")
    way = ("template", "test", tmp_path / "old.csr", "--template", tmp_path / "old.toml", "--protocol")
    assert run_json(config, *way, "scep")["subject"] == "CN=Müller"
    assert "neither ASCII nor UTF-8" in run(config, *way, "est", code=1)


def test_template_test_lets_in_the_old_digests_that_scep_would_let_in(config: Path, tmp_path: Path) -> None:
    command = "openssl req -new -newkey rsa:2048 -nodes -keyout k -subj /CN=old -sha1 -out old.csr"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    text = (READY / "device.toml").read_text()
    way = ("template", "test", tmp_path / "old.csr", "--template", tmp_path / "old.toml", "--protocol")
    for legacy, told in (("sha1", ""), ("md5", "SHA1 is not accepted for template device")):
        (tmp_path / "old.toml").write_text(f'{text}\n[scep]\nlegacy = ["{legacy}"]\n')
        assert told in run(config, *way, "scep", code=1 if told else 0)
    (tmp_path / "old.toml").write_text(f'{text}\n[scep]\nlegacy = ["sha1"]\n')
    assert "signed over SHA1 is not accepted" in run(config, *way, "est", code=1)
