"""``pkiserver key`` and ``pkiserver hsm``, run as an administrator runs them, on a SoftHSM token."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.software import generate_private_key
from tests.support.commands import configured, run, run_json
from tests.support.keys import softhsm_token, software_store

KILLED = """
import os, signal
from pkiserver.keys.registry import StoreRegistry
async def add(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
StoreRegistry.add = add
from pkiserver.cli.main import main; main()
"""
"""A command that is killed between making a key in its store and registering it."""
FULL = """
import collections, resource, shutil
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
shutil.disk_usage = lambda _path: collections.namedtuple("Usage", "free")(0)
from pkiserver.cli.main import main; main()
"""
"""A command on a disk that takes nothing more and says so, like a full one."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("node")
    return configured(directory, softhsm_token(directory), software_store(directory))


def test_a_key_from_birth_to_end(config: Path) -> None:
    told = run(config, "key", "generate", "ca", "--type", "ec-p256", "--doors", "certificate,crl", "--store", "softhsm")
    assert "pkcs11:token=test" in told
    listed = run_json(config, "key", "list")
    assert [(row["name"], row["type"], row["doors"], row["state"]) for row in listed] == [
        ("ca", "ec-p256", "certificate,crl", "ready")
    ]
    shown = run_json(config, "key", "show", "ca")
    assert shown["scheme"] == "ecdsa-sha256"
    assert shown["signs_in_place"] is True
    assert run_json(config, "key", "test", "ca")["milliseconds"] > 0
    (row,) = run_json(config, "hsm", "bench", "--seconds", "0.2")
    assert row["signatures_per_s"] > 0
    assert "destroyed" in run(config, "key", "delete", "ca", "--yes")
    assert run_json(config, "key", "list") == []


def test_import_adopt_and_forget(config: Path, tmp_path: Path) -> None:
    private = generate_private_key(KeyType.parse("rsa-2048"))
    file = tmp_path / "key.pem"
    encryption = serialization.BestAvailableEncryption(b"pw")
    file.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    line = ("key", "import", "old", str(file), "--doors", "cms,open", "--store", "software")
    assert "cannot be read" in run(config, *line, "--password-source", "env:PW", code=1, PW="wrong")
    run(config, *line, "--password-source", "env:PW", PW="pw")
    location = run_json(config, "key", "show", "old")["location"]
    assert "forgotten" in run(config, "key", "delete", "old", "--keep-object", "--yes")
    run(config, "key", "adopt", "again", location, "--doors", "cms")
    # a second name would be a way around the doors
    twice = ("key", "adopt", "twice", location, "--doors", "certificate")
    assert "registered already, as 'again'" in run(config, *twice, code=1)
    line = ("key", "import", "twice", *line[3:])
    assert "registered already, as 'again'" in run(config, *line, "--password-source", "env:PW", code=1, PW="pw")
    assert run_json(config, "key", "show", "again")["type"] == "rsa-2048"
    run(config, "key", "delete", "again", "--yes")


def test_the_key_of_an_authority_in_force_is_not_deleted(config: Path) -> None:
    run(config, "ca", "create", "root", "--subject", "CN=Root", "--key-store", "softhsm")
    for more in ((), ("--keep-object",)):
        told = run(config, "key", "delete", "root-1", "--yes", *more, code=1)
        assert "key root-1 is that of authority root, key 1, until" in told
    for command in ("renew", "rekey"):
        told = run(config, "ca", command, "root", "--validity", "0d", code=2)
        assert "'0d' is no time at all" in told, "it was taken for no wish at all"
    assert [row["state"] for row in run_json(config, "key", "list") if row["name"] == "root-1"] == ["ready"]


def test_mistakes_are_explained(config: Path) -> None:
    assert "ml-dsa-87" in run(config, "key", "generate", "x", "--type", "dsa", "--doors", "crl", code=1)
    assert "allowed: certificate" in run(config, "key", "generate", "x", "--doors", "everything", code=1)
    assert "softhsm, software" in run(config, "key", "generate", "x", "--doors", "crl", code=2)
    assert "no key 'nothing'" in run(config, "key", "test", "nothing", code=1)


def test_tokens_are_described(config: Path) -> None:
    (token,) = run_json(config, "hsm", "info", "--mechanisms")
    assert token["state"] == "ready"
    assert "ECDSA" in token["mechanisms"]


def _killed(config: Path, *arguments: str) -> None:
    command = [sys.executable, "-c", KILLED, *arguments, "--config", str(config)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == -signal.SIGKILL


def _unregistered(config: Path) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in run_json(config, "key", "list", "--unregistered")}


def _doctor(config: Path) -> dict[str, str]:
    return {row["name"]: row["text"] for row in run_json(config, "doctor")["results"]}


@pytest.mark.crash
def test_a_key_that_a_killed_process_left_is_shown_and_can_be_removed(config: Path) -> None:
    assert _unregistered(config) == {}
    create = ("ca", "create", "broken-off", "--subject", "CN=Broken Off", "--key-store")
    _killed(config, *create, "softhsm")
    told = run(config, *create, "softhsm", code=1)
    assert "a key with the label 'broken-off-1' already, of which no record of that name tells" in told
    (left,) = _unregistered(config).values()
    assert (left["store"], left["name"], left["parts"]) == ("softhsm", "broken-off-1", ["private", "public"])
    assert "1 in no record: broken-off-1" in _doctor(config)["keys:softhsm"]
    assert "destroyed in softhsm" in run(config, "key", "delete", left["location"], "--yes")
    assert "not registered" in run(config, "audit", "tail")
    assert _unregistered(config) == {}
    assert "keys:softhsm" not in _doctor(config)
    run(config, *create, "softhsm")


@pytest.mark.crash
def test_a_key_that_a_killed_process_left_can_be_taken_over(config: Path) -> None:
    for store in ("softhsm", "software"):
        generate = ("key", "generate", f"left-{store}", "--doors", "crl", "--store", store)
        _killed(config, *generate)
        assert "--unregistered" in run(config, *generate, code=1)
        location = _unregistered(config)[f"left-{store}"]["location"]
        run(config, "key", "adopt", f"found-{store}", location, "--doors", "crl")
        assert _unregistered(config) == {}
        # only what the list shows is destroyed by its location
        assert "is no key that is in no record" in run(config, "key", "delete", location, "--yes", code=1)
        run(config, "key", "test", f"found-{store}")
        run(config, "key", "delete", f"found-{store}", "--yes")


def test_a_full_disk_is_told_where_it_keeps_the_database_from_being_opened(config: Path) -> None:
    command = [sys.executable, "-c", FULL, "key", "list", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (75, "")
    assert f"(disk I/O error: no room is left under {config.parent})" in done.stderr
