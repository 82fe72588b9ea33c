"""``pkiserver key`` and ``pkiserver hsm``, run as an administrator runs them, on a SoftHSM token."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.software import generate_private_key
from tests.support.commands import configured, run, run_json
from tests.support.keys import softhsm_token, software_store


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
