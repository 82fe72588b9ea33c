"""Doctor on a whole installation: green when all is well, and a line with advice for each thing that is broken."""

from __future__ import annotations

import json
import os
import pwd
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.timestamping.unit import ImprintHash
from protocols.timestamp.messages import encode_request
from tests.support.commands import PKISERVER
from tests.support.ports import free_port_base


class Installation:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / "instance"
        self.base = free_port_base()
        self.config = self.folder / "pkiserver.toml"
        self.process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [
                *(*PKISERVER, "quickstart", "--setup-only", "--workers", "1"),
                *("--dir", self.folder, "--port-base", str(self.base)),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )

    def start(self) -> None:
        twistd = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
        with (self.folder.parent / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*twistd, "pkiserver", "--config", str(self.config)], cwd="/", stdout=log, stderr=log
            )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                url = f"http://127.0.0.1:{self.base + 90}/health/ready"
                with urllib.request.urlopen(url, timeout=2):
                    break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError((self.folder.parent / "log").read_text())

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)

    def doctor(self) -> tuple[int, dict[str, dict[str, Any]]]:
        done = subprocess.run(
            [*PKISERVER, "doctor", "--json", "--config", str(self.config)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        answer = json.loads(done.stdout)
        assert answer["green"] == (done.returncode == 0), done.stderr
        return done.returncode, {result["name"]: result for result in answer["results"]}

    def wrong(self) -> dict[str, dict[str, Any]]:
        code, results = self.doctor()
        wrong = {name: result for name, result in results.items() if result["health"] != "ok"}
        assert (code != 0) == bool(wrong)
        assert all(result["advice"] for result in wrong.values())
        return wrong


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    made = Installation(tmp_path_factory.mktemp("doctor"))
    generate = ["key", "generate", "a-checkpoint-key", "--type", "ec-p256", "--doors", "checkpoint"]
    subprocess.run([*PKISERVER, "--config", made.config, *generate], check=True, timeout=60, stdout=subprocess.DEVNULL)
    made.start()
    yield made
    made.stop()


def wait_until_green(installation: Installation) -> dict[str, dict[str, Any]]:
    """Responder certificates and first CRLs come a moment after the start."""
    for _ in range(10):
        code, results = installation.doctor()
        if code == 0:
            return results
        time.sleep(1)
    raise AssertionError({name: result for name, result in results.items() if result["health"] != "ok"})


def test_green_on_a_fresh_installation(installation: Installation) -> None:
    results = wait_until_green(installation)
    assert {
        *("configuration", "state_dir", "disk:state_dir", "tls:key", "tls:names", "tls:chain", "node:node", "database"),
        *("keys", "ca:issuing:chain", "ca:issuing:key", "crl:issuing", "clock"),
    } <= set(results)
    assert any(name.startswith("url:http") and name.endswith("/ocsp") for name in results)
    done = subprocess.run(
        [*PKISERVER, "--config", str(installation.config), "doctor"],
        capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    # the demonstration trusts this machine's own clock for time-stamps, and says so
    assert {name for name, result in results.items() if result["health"] != "ok"} == {"node:tsa:time"}
    assert done.stdout.endswith("All works; 1 thing(s) should be looked at.\n")
    strict = subprocess.run([*PKISERVER, "--config", str(installation.config), "doctor", "--strict"], check=False)
    assert strict.returncode == 1
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_key_signs_the_audit_log_by_itself(installation: Installation) -> None:
    wait_until_green(installation)
    with sqlite3.connect(f"file:{installation.folder}/pkiserver.db?mode=ro", uri=True) as database:
        made = database.execute("SELECT id, key_name, scheme FROM audit_checkpoint").fetchall()
    assert made == [(1, "a-checkpoint-key", "ecdsa-sha256")]
    # what docs/operations.md says to keep elsewhere is what verifies; there was no command that wrote it
    pem = installation.folder.parent / "checkpoint.pem"
    command = [*PKISERVER, "--config", str(installation.config)]
    shown = subprocess.run([*command, "key", "show", "--pem", made[0][1]], check=True, timeout=60, capture_output=True)
    pem.write_bytes(shown.stdout)
    subprocess.run([*command, "audit", "verify", "--key", str(pem)], check=True, timeout=60, capture_output=True)


def test_metrics_tell_of_the_engine(installation: Installation) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{installation.base + 90}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'pkiserver_keys{state="faulty",worker="0"} 0.0' in text
    assert 'pkiserver_authority_problems{authority="issuing",worker="0"} 0.0' in text
    assert "pkiserver_database_transactions_total{" in text


def test_what_is_broken_is_named_with_advice(installation: Installation) -> None:
    installation.config.chmod(0o666)
    installation.folder.chmod(0o755)
    original = installation.config.read_text()
    installation.config.write_text(original.replace("https://localhost", "https://pki.example.org"))
    numbers = installation.folder / "crl-numbers"
    aside = numbers.rename(installation.folder / "aside")
    numbers.mkdir()
    try:
        wrong = installation.wrong()
    finally:
        installation.config.write_text(original)
        installation.config.chmod(0o600)
        installation.folder.chmod(0o700)
        numbers.rmdir()
        aside.rename(numbers)
    assert wrong["crl-numbers"]["text"] == f"{numbers}: Is a directory"
    assert "chmod go-w" in wrong["configuration"]["advice"]
    assert wrong["state_dir"]["advice"] == f"chmod 0700 {installation.folder}"
    assert "pki.example.org of public.https is not among" in wrong["tls:names"]["text"]


def test_root_is_told_that_the_folder_is_anothers(installation: Installation) -> None:
    assert os.geteuid() == 0, "this test runs a command as root, on the folder of another account"
    os.chown(installation.folder, pwd.getpwnam("nobody").pw_uid, -1)
    try:
        _, results = installation.doctor()
    finally:
        os.chown(installation.folder, 0, -1)
    assert results["state_dir"]["health"] == "warning"
    assert "belongs to nobody" in results["state_dir"]["text"]
    assert "runuser -u nobody -- pkiserver" in results["state_dir"]["advice"]


def test_a_wrong_configuration_is_told_line_by_line(installation: Installation) -> None:
    original = installation.config.read_text()
    installation.config.write_text(f"nonsense = 1\n{original}")
    try:
        done = subprocess.run(
            [*PKISERVER, "doctor", "--config", str(installation.config)], capture_output=True, text=True, check=False
        )
    finally:
        installation.config.write_text(original)
    assert done.returncode == 1
    assert "nonsense: unknown key" in done.stdout
    assert "1 thing(s) need you." in done.stdout


def test_a_lost_key_of_a_time_stamping_unit_is_told_with_what_to_do(installation: Installation) -> None:
    wait_until_green(installation)
    command = [*PKISERVER, "--config", str(installation.config)]
    listed = subprocess.run([*command, "--json", "key", "list"], check=True, timeout=60, capture_output=True)
    (key,) = [row["name"] for row in json.loads(listed.stdout) if row["name"].startswith("tsu-demo_")]
    store = tomllib.loads(installation.config.read_text())["key_store"][0]
    pin = Path(store["pin_source"].removeprefix("file:")).read_text().strip()
    tool = ["pkcs11-tool", "--module", store["module"], "--token-label", store["token_label"], "--login", "--pin", pin]
    environment = os.environ | {"SOFTHSM2_CONF": store["softhsm_config"]}
    destroy = [*tool, "--delete-object", "--type", "privkey", "--label", key]
    subprocess.run(destroy, check=True, timeout=60, capture_output=True, env=environment)
    query = encode_request(ImprintHash.SHA256, bytes(32))

    def stamp() -> bytes:
        headers = {"Content-Type": "application/timestamp-query"}
        url = f"http://127.0.0.1:{installation.base + 80}/tsa"
        with urllib.request.urlopen(urllib.request.Request(url, query, headers), timeout=20) as answer:
            return bytes(answer.read())

    assert len(stamp()) < 200, "a refusal: the server finds out by trying"
    assert "`pkiserver timestamp unit renew demo`" in installation.wrong()["node:tsa:demo"]["text"]
    subprocess.run([*command, "timestamp", "unit", "renew", "demo"], check=True, timeout=60, capture_output=True)
    subprocess.run([*command, "key", "delete", "--yes", key], check=True, timeout=60)
    wait_until_green(installation)
    assert len(stamp()) > 200


def test_a_stopped_server_and_a_token_that_is_away_are_told(installation: Installation) -> None:
    installation.stop()
    token = installation.folder / "token"
    token.rename(installation.folder / "elsewhere")
    try:
        wrong = installation.wrong()
    finally:
        (installation.folder / "elsewhere").rename(token)
    assert "does not answer" in wrong["node"]["text"]
    assert wrong["node"]["advice"] == "start the server, then run this again"
    assert any(name.startswith("key:") for name in wrong)
    assert any(name.startswith("url:") and "no answer" in result["text"] for name, result in wrong.items())
    installation.start()
    wait_until_green(installation)
