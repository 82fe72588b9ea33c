"""``pkiserver scep``: what an administrator sees of SCEP."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from tests.support.instance import PKISERVER, Instance


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Instance:
    return Instance(tmp_path_factory.mktemp("scep"))


def test_templates_with_their_addresses_and_weaknesses(instance: Instance, tmp_path: Path) -> None:
    listed = json.loads(instance.cli("--json", "scep", "list").stdout)
    rows = {row["template"]: row for row in listed}
    assert rows["device"]["url"] == f"{instance.layout.http_url}/scep/device"
    assert not any(row["weaknesses"] for row in listed), "no ready template accepts old algorithms"
    text = instance.cli("template", "show", "device").stdout
    command = [str(PKISERVER), "--config", str(instance.layout.config), "--json", "scep", "hash-challenge", "--stdin"]
    made = subprocess.run(command, input="open sesame\n", capture_output=True, text=True, check=True)
    hashed = json.loads(made.stdout)["hash"]
    assert hashed.startswith("$argon2id$")
    old = text.replace('name = "device"', 'name = "old-device"')
    old = old.replace('all = ["code"]', 'all = ["shared_secret"]', 1)
    (tmp_path / "old-device.toml").write_text(f'{old}\n[scep]\nlegacy = ["des3"]\nstatic_challenge = "{hashed}"\n')
    applied = instance.cli("apply", str(tmp_path / "old-device.toml"), "--yes")
    assert "has a static challenge" in applied.stdout + applied.stderr
    diagnosis = instance.cli("doctor", check=False)
    assert "old-device has a static challenge" in " ".join((diagnosis.stdout + diagnosis.stderr).split())
    rows = {row["template"]: row for row in json.loads(instance.cli("--json", "scep", "list").stdout)}
    weak = " ".join(rows["old-device"]["weaknesses"])
    assert "des3" in weak
    assert "static challenge" in weak


def test_the_registration_authority_is_shown_and_made_where_it_is_missing(instance: Instance) -> None:
    first = json.loads(instance.cli("--json", "scep", "ra", "issuing").stdout)
    assert [one["what"] for one in first] == ["registration authority", "issuing CA", "CA above"]
    root = x509.load_pem_x509_certificate(instance.layout.root_certificate.read_bytes())
    assert first[-1]["sha1"] == root.fingerprint(hashes.SHA1()).hex()
    shown = instance.cli("scep", "ra", "issuing").stdout
    assert all(one["sha256"] in shown for one in first), "whole, to be copied"
    assert json.loads(instance.cli("--json", "scep", "ra", "issuing").stdout) == first
    assert instance.cli("scep", "ra", "nowhere", check=False).returncode == 1


def test_what_is_no_hash_is_refused_as_a_static_challenge(instance: Instance, tmp_path: Path) -> None:
    text = instance.cli("template", "show", "device").stdout.replace('name = "device"', 'name = "plain"')
    (tmp_path / "plain.toml").write_text(f'{text}\n[scep]\nstatic_challenge = "secret"\n')
    refused = instance.cli("apply", str(tmp_path / "plain.toml"), "--yes", check=False)
    assert refused.returncode != 0
    assert "hash-challenge" in refused.stdout + refused.stderr


def test_codes_are_made_for_one_subject_and_time_listed_without_themselves_and_taken_back(instance: Instance) -> None:
    bound = ("--subject", "CN=router-7", "--name", "dns:router-7.example.org", "--lifetime", "2h")
    made = json.loads(instance.cli("--json", "enroll-code", "create", "device", *bound).stdout)
    listing = instance.cli("--json", "enroll-code", "list").stdout
    assert made["code"] not in listing
    (row,) = [one for one in json.loads(listing) if one["number"] == made["number"]]
    assert (row["template"], row["subject"], row["names"]) == ("device", "CN=router-7", ["dns:router-7.example.org"])
    left = datetime.fromisoformat(row["expires"]) - datetime.now(UTC)
    assert timedelta(hours=1) < left <= timedelta(hours=2)
    instance.cli("enroll-code", "withdraw", str(made["number"]))
    assert made["number"] not in [
        one["number"] for one in json.loads(instance.cli("--json", "enroll-code", "list").stdout)
    ]
    assert instance.cli("enroll-code", "withdraw", str(made["number"]), check=False).returncode == 1
    for wrong in (("--subject", "nobody"), ("--name", "router-7"), ("--lifetime", "0s"), ("--lifetime", "400d")):
        assert instance.cli("enroll-code", "create", "device", *wrong, check=False).returncode != 0, wrong
