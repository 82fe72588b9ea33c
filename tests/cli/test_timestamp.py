"""Time-stamps on a whole server as a new user gets it: the command line, HTTP, health and metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.instance import Instance


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    made = Instance(tmp_path_factory.mktemp("stamps"), workers=2)
    made.start()
    yield made
    made.stop()


def url(instance: Instance, unit: str = "") -> str:
    return f"{instance.layout.http_url}/tsa{'/' if unit else ''}{unit}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data"
    file.write_bytes(b"what is to be stamped")
    return file


def test_request_and_verify(instance: Instance, data: Path) -> None:
    told = json.loads(instance.cli("--json", "timestamp", "request", str(data), "--url", url(instance)).stdout)
    token = Path(f"{data}.tsr")
    assert token.exists()
    checked = json.loads(instance.cli("--json", "timestamp", "verify", str(token), "--data", str(data)).stdout)
    assert checked["verified"] is True
    assert checked["serial"] == told["serial"]
    root = str(instance.layout.root_certificate)
    instance.cli("timestamp", "verify", str(token), "--data", str(data), "--ca", root)
    data.write_bytes(b"something else")
    refused = instance.cli("timestamp", "verify", str(token), "--data", str(data), "--ca", root, check=False)
    assert refused.returncode == 1
    assert "the token is about other data" in refused.stderr


def test_a_request_for_openssl(instance: Instance, data: Path, tmp_path: Path) -> None:
    instance.cli("timestamp", "request", str(data), "--hash", "sha3-512", "--out", str(tmp_path / "q"))
    script = (
        f"curl -fsS -H 'Content-Type: application/timestamp-query' --data-binary @q {url(instance)} -o r; "
        f"openssl ts -verify -queryfile q -in r -CAfile {instance.layout.root_certificate}"
    )
    done = instance.shell(script, tmp_path)
    assert "Verification: OK" in done.stdout + done.stderr


def test_a_unit_from_the_command_line_serves_within_seconds(instance: Instance, data: Path, tmp_path: Path) -> None:
    arguments = ("--issuer", "issuing", "--policy", "1.3.6.1.4.1.99999.1", "--key-type", "rsa-2048")
    instance.cli("timestamp", "unit", "create", "extra", *arguments)
    again = instance.cli("timestamp", "unit", "create", "extra", *arguments, check=False)
    assert again.returncode == 1
    bad = instance.cli("timestamp", "unit", "create", "Bad Name", *arguments, check=False)
    assert bad.returncode == 1
    wait_for_unit(instance, data, "extra", tmp_path)
    rows = json.loads(instance.cli("--json", "timestamp", "unit", "list").stdout)
    assert [row["name"] for row in rows] == ["demo", "extra"]
    first = instance.cli("--json", "timestamp", "unit", "show", "extra").stdout
    instance.cli("timestamp", "unit", "renew", "extra")
    second = instance.cli("--json", "timestamp", "unit", "show", "extra").stdout
    assert json.loads(first)["key"] != json.loads(second)["key"]


def wait_for_unit(instance: Instance, data: Path, unit: str, folder: Path) -> None:
    query = f"openssl ts -query -data {data} -sha256 -cert -out q"
    post = f"curl -fsS -H 'Content-Type: application/timestamp-query' --data-binary @q {url(instance, unit)} -o r"
    verify = f"openssl ts -verify -data {data} -in r -CAfile {instance.layout.root_certificate}"
    # Both workers take it up by themselves.
    script = f"{query}; for n in $(seq 300); do {post} && {verify} && exit 0; sleep 0.1; done; exit 1"
    done = instance.shell(script, folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_export_change_and_apply(instance: Instance, data: Path, tmp_path: Path) -> None:
    text = instance.cli("export", "timestamp-unit/demo").stdout
    assert 'name = "demo"' in text
    file = tmp_path / "unit.toml"
    file.write_text(text + '\narchive = "tokens"\narchive_strict = true\n')
    said = instance.cli("apply", str(file), "--yes").stdout
    assert '+archive = "tokens"' in said
    serial = None
    for _ in range(30):
        told = instance.cli("--json", "timestamp", "request", str(data), "--url", url(instance)).stdout
        serial = json.loads(told)["serial"]
        found = json.loads(instance.cli("--json", "timestamp", "log", "--serial", serial).stdout)
        if found:
            break
    assert found[0]["unit"] == "demo"
    chains = json.loads(instance.cli("--json", "timestamp", "log").stdout)
    assert chains
    assert all(row["problem"] is None for row in chains)
    file.write_text(text.replace('kind = "timestamp-unit"', 'kind = "timestamp-unit"\nprecision = "hours"'))
    refused = instance.cli("apply", str(file), "--yes", check=False)
    assert refused.returncode == 1
    assert "precision" in refused.stderr
    lines = ['kind = "timestamp-unit"', 'name = "orphan"', 'policies = ["1.2.3"]', 'issuer = "nobody"']
    file.write_text("\n".join(lines))
    orphan = instance.cli("apply", str(file), "--yes", check=False)
    assert orphan.returncode == 1
    assert f'{file}:4: issuer: there is no authority "nobody"' in orphan.stderr
    assert '(allowed: "issuing", "root")' in orphan.stderr
    assert "orphan" not in instance.cli("timestamp", "unit", "list").stdout


def test_basic_access_over_tls(instance: Instance, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "unit.toml"
    file.write_text(
        'kind = "timestamp-unit"\nname = "members"\nissuer = "issuing"\npolicies = ["1.2.3"]\n'
        '[access]\nwho = "password"\ngroups = ["device"]\n'
    )
    instance.cli("apply", str(file), "--yes")
    password = (instance.layout.secrets / "demo-password").read_text()
    post = (
        "curl -sS -o /dev/null -w '%{http_code} ' -H 'Content-Type: application/timestamp-query' --data-binary @q"
        f" --cacert {instance.layout.root_certificate}"
    )
    tls = f"{instance.layout.https_url}/tsa/members"
    instance.shell(f"openssl ts -query -data {data} -sha256 -out q", tmp_path)
    asked = (
        f"{post} {tls}; {post} -u demo:{password} {tls}; {post} -u demo:wrong {tls}; {post} {url(instance, 'members')}"
    )
    answers: list[str] = []
    for _ in range(50):  # each worker takes the unit up by itself, and any of them may answer
        answers = instance.shell(asked, tmp_path).stdout.split()
        if "404" not in answers:
            break
    assert answers == ["401", "200", "401", "403"]


def test_time_health_and_metrics(instance: Instance, tmp_path: Path) -> None:
    told = json.loads(instance.cli("--json", "timestamp", "time").stdout)
    assert told["trusted_without_asking"] is True
    management = f"http://127.0.0.1:{instance.layout.management_port}"
    health = instance.shell(f"curl -fsS {management}/health/ready", tmp_path).stdout
    assert "time source 'system'" in health
    metrics = instance.shell(f"curl -fsS {management}/metrics", tmp_path).stdout
    assert "pkiserver_timestamp_answers_total" in metrics
    assert 'pkiserver_time_trouble{reason="clock-stepped"' in metrics
