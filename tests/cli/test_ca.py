"""``pkiserver ca`` as an administrator runs it: an air-gapped root and a server, two machines with files between."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.commands import configured, run, run_json
from tests.support.keys import softhsm_token


def _machine(directory: Path) -> Path:
    """A configuration with a database and a token of its own."""
    directory.mkdir()
    return configured(directory, softhsm_token(directory))


@pytest.fixture
def safe(tmp_path: Path) -> Path:
    return _machine(tmp_path / "safe")


@pytest.fixture
def server(tmp_path: Path) -> Path:
    return _machine(tmp_path / "server")


def test_an_air_gapped_root(safe: Path, server: Path, tmp_path: Path) -> None:
    root, csr, answer = (str(tmp_path / name) for name in ("root.pem", "issuing.csr", "answer.pem"))
    run(
        safe,
        "ca",
        "create",
        "root",
        "--subject",
        "CN=Safe Root,O=Example,C=CH",
        "--validity",
        "20y",
        "--path-length",
        "1",
    )
    run(safe, "ca", "export-chain", "root", "--out", root)
    run(server, "ca", "import", "root", root)
    run(server, "ca", "create", "issuing", "--subject", "CN=Issuing,O=Example,C=CH", "--request", "--out", csr)
    run(safe, "ca", "sign", "root", csr, "--path-length", "0", "--validity", "5y", "--out", answer)
    told = run(server, "ca", "install", "issuing", answer)
    assert "installed" in told
    rows = {row["name"]: row for row in run_json(server, "ca", "list")}
    assert (rows["root"]["key_name"], rows["issuing"]["state"]) == ("offline", "active")
    chain = tmp_path / "chain.pem"
    run(server, "ca", "export-chain", "issuing", "--out", str(chain))
    checked = subprocess.run(
        ["openssl", "verify", "-CAfile", root, str(chain)], capture_output=True, text=True, check=False
    )
    assert checked.stdout.strip().endswith(": OK"), checked.stderr
    refused = run(server, "ca", "create", "below", "--subject", "CN=Below", "--issuer", "root", code=1)
    assert "offline" in refused
    # Renewal of a CA whose issuer is away gives a request again, and the old key's certificate takes the answer.
    run(server, "ca", "renew", "issuing", "--out", csr)
    run(safe, "ca", "sign", "root", csr, "--path-length", "0", "--out", answer)
    run(server, "ca", "install", "issuing", answer)
    assert run_json(server, "ca", "show", "issuing")["key"] == 1
    run(server, "ca", "rekey", "issuing", "--key-type", "ec-p384", "--out", csr)
    run(safe, "ca", "sign", "root", csr, "--path-length", "0", "--out", answer)
    run(server, "ca", "install", "issuing", answer)
    shown = run_json(server, "ca", "show", "issuing")
    assert (shown["key"], shown["scheme"]) == (2, "ecdsa-sha384")
    run(server, "ca", "export-chain", "issuing", "--all", "--out", str(chain))
    assert chain.read_text().count("BEGIN CERTIFICATE") == 5  # two keys, two links, the root


def test_two_tiers_on_one_machine_and_what_is_refused(server: Path) -> None:
    run(
        server,
        "ca",
        "create",
        "root",
        "--subject",
        "CN=R,O=E",
        "--base-url",
        "http://pki.example",
        "--path-length",
        "1",
    )
    run(server, "ca", "create", "sub", "--subject", "CN=S,O=E", "--issuer", "root", "--validity", "1y")
    shown = run_json(server, "ca", "show", "sub")
    assert shown["issued_by"] == "CN=R,O=E"
    assert shown["path_length"] == 0
    many = run(server, "ca", "create", "x", "--subject", "CN=X", "--permit", "dns", "--policy", "1", code=1)
    assert many.count("\n") >= 2
    assert "usage" in run(server, "ca", "create", "x", "--subject", "what", code=2).lower()


def test_mistakes_are_refused_before_a_key_is_made_and_a_name_taken(server: Path) -> None:
    """0d made an authority without end; some were internal errors; others left half an authority behind."""
    run(server, "ca", "create", "root", "--subject", "CN=Root", "--scheme", "ecdsa-sha256")
    mistakes = (
        (("--validity", "0d"), 2, "'0d' is no time at all"),
        (("--not-after", "2020-01-01"), 1, "the validity would have ended already"),
        (("--permit", "dns:*.example.com"), 1, "must not contain the '*' wildcard"),
        (("--exclude", "mail:example.com"), 1, "unknown kind 'mail'"),
        (("--policy", "2.999.1", "--policy", "2.999.1 http://x/cps"), 1, "a certificate policy is named twice"),
        (("--key-type", "rsa-2048", "--scheme", "ecdsa-sha256"), 1, "a key of type rsa-2048 cannot sign by"),
        (("--base-url", "ftp://x"), 2, "'ftp://x' is not where answers are found"),
    )
    for position, (options, code, text) in enumerate(mistakes):
        issuer = ("--issuer", "root") if position % 2 else ()
        told = run(server, "ca", "create", "below", "--subject", "CN=Below", *issuer, *options, code=code)
        assert text in told, options
    told = run(server, "ca", "create", "below", "--subject", "junk", code=2)
    assert "is no distinguished name (RFC 4514)" in told
    assert [row["name"] for row in run_json(server, "ca", "list")] == ["root"]
    assert [row["name"] for row in run_json(server, "key", "list")] == ["root-1"]


def test_blocked_keys(server: Path, tmp_path: Path) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "key.pem").write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
    (tmp_path / "list").write_text(f"# leaked\n{'ab' * 32}\n{':'.join(['cd'] * 32)}  # colons\n\n")
    assert "2 keys" in run(server, "key", "block", str(tmp_path / "list"), "--why", "leaked in 2026")
    run(server, "key", "block", str(tmp_path / "key.pem"), "--why", "ours, lost")
    listed = run_json(server, "key", "blocked")
    assert {row["why"] for row in listed} == {"leaked in 2026", "ours, lost"}
    run(server, "key", "unblock", "ab" * 32)
    assert len(run_json(server, "key", "blocked")) == 2
    (tmp_path / "bad").write_text("xyz\n123\n")
    refused = run(server, "key", "block", str(tmp_path / "bad"), "--why", "no", code=1)
    assert "line 1" in refused
    assert "line 2" in refused


def test_the_next_key_is_like_the_last_one_unless_another_is_wanted(safe: Path) -> None:
    def newest() -> tuple[str, bool]:
        named = run_json(safe, "ca", "show", "devices")["key_name"]
        (found,) = (one for one in run_json(safe, "key", "list") if one["name"] == named)
        return found["type"], "open" in found["doors"]

    run(safe, "ca", "create", "devices", "--subject", "CN=Devices", "--key-type", "rsa-2048", "--scep")
    run(safe, "ca", "rekey", "devices")
    assert newest() == ("rsa-2048", True)
    run(safe, "ca", "rekey", "devices", "--key-type", "rsa-3072")
    assert newest() == ("rsa-3072", True)
    run(safe, "ca", "rekey", "devices", "--key-type", "ec-p256")
    assert newest() == ("ec-p256", False)
