"""``pkiserver cert`` and ``pkiserver crl``, run as an administrator runs them."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pkiserver.authority.lifecycle.ceremonies import CA_DOORS, KeyChoice, NewAuthority
from pkiserver.authority.lifecycle.certify import Actor
from pkiserver.authority.lifecycle.profile import CaProfile, parse_name
from pkiserver.foundation.tomlfile import load_file
from pkiserver.keys.algorithms import KeyType
from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.engine import open_engine
from pkiserver.store.authority import templates
from tests.authority.status_world import lint_crl
from tests.authority.world import TEMPLATE, authorised, fingerprint
from tests.protocols.ocsp.foreign_site import Other
from tests.support.commands import configured, run, run_json
from tests.support.keys import software_store

OnReactor = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


@attrs.frozen
class Node:
    """A configured node with an authority ``issuing`` and three certificates."""

    config: Path
    directory: Path
    certificates: tuple[bytes, ...]
    issuer: bytes
    key_uri: str

    def serial(self, index: int) -> str:
        return f"{x509.load_der_x509_certificate(self.certificates[index]).serial_number:x}"

    def run(self, *arguments: object, code: int = 0) -> str:
        return run(self.config, *arguments, code=code)

    def json(self, *arguments: object) -> Any:
        return run_json(self.config, *arguments)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, on_reactor: OnReactor) -> Node:
    directory = tmp_path_factory.mktemp("node")
    path = configured(directory, software_store(directory))

    async def set_up() -> Node:
        async with open_engine(load_file(NodeSettings, path)) as engine:
            key = KeyChoice(key_type=KeyType.parse("ec-p256"), store="software", doors=CA_DOORS)
            new = NewAuthority("issuing", parse_name("CN=Command Line CA"), CaProfile(), key)
            await engine.road.ceremonies.create_root(new, Actor("test"))
            await engine.database.write(
                lambda connection: templates.put(connection, "device", TEMPLATE, now=engine.clock.now(), expected=None)
            )
            await engine.templates.refresh()
            issued = [
                await engine.road.issue(await engine.road.prepare(authorised(common_name=f"device {n}")))
                for n in range(3)
            ]
            current = engine.authorities.get("issuing").current
            uri = engine.keys.show(current.key_name or "").record.uri
            return Node(path, directory, tuple(one.der for one in issued), current.certificate.der, uri)

    made: Node = on_reactor(set_up)
    return made


def test_who_only_looks_waits_for_nobody_and_leaves_no_trace(node: Node) -> None:
    """Neither while another process writes, nor where a disk is full, must the state of things stay hidden."""
    with contextlib.closing(sqlite3.connect(node.directory / "pkiserver.db", isolation_level=None)) as database:

        def traces() -> list[tuple[int]]:
            counts = ("audit_writer", "audit_event", "lease")
            return [database.execute(f"SELECT count(*) FROM {table}").fetchone() for table in counts]

        before = traces()
        database.execute("BEGIN IMMEDIATE")
        for command in (
            "ca list",
            "cert list",
            "crl list",
            "key list",
            "template list",
            "request list",
            "audit verify",
        ):
            node.run(*command.split())
        assert traces() == before
        database.execute("ROLLBACK")


def test_find_show_and_export(node: Node) -> None:
    listed = node.json("cert", "list")
    assert {node.serial(n) for n in range(3)} <= {one["serial"] for one in listed}
    [found] = node.json(
        "cert", "search", "--subject", "CN=device 1", "--state", "issued", "--expires-from", "2020-01-01"
    )
    assert found["serial"] == node.serial(1)
    assert (
        node.json("cert", "search", "--fingerprint", fingerprint(node.certificates[2]).hex())[0]["template"] == "device"
    )
    colons = ":".join(node.serial(1)[i : i + 2] for i in range(0, len(node.serial(1)), 2))
    assert node.json("cert", "show", f"0x{colons}")["subject"] == "CN=device 1"
    pem = node.run("cert", "export", node.serial(1), "--chain")
    chain = x509.load_pem_x509_certificates(pem.encode())
    assert [one.public_bytes(Encoding.DER) for one in chain] == [node.certificates[1], node.issuer]
    out = node.directory / "one.der"
    node.run("cert", "export", node.serial(1), "--format", "der", "--out", out)
    assert out.read_bytes() == node.certificates[1]


def test_a_certificates_life_on_the_command_line(node: Node) -> None:
    file = node.directory / "zero.pem"
    file.write_bytes(x509.load_der_x509_certificate(node.certificates[0]).public_bytes(Encoding.PEM))
    assert node.json("cert", "hold", file, "--comment", "lost")["reason"] == "certificateHold"
    assert node.json("cert", "release", node.serial(0))["state"] == "issued"
    said = node.run("cert", "revoke", file, "--reason", "superseded", "--invalidity-date", "2999-01-01", code=1)
    assert "the invalidity date lies in the future" in said
    assert node.serial(0) in node.run("cert", "revoke", file, "--reason", "key-compromise")
    shown = node.json("cert", "show", fingerprint(node.certificates[0]).hex())
    assert (shown["state"], shown["reason"]) == ("revoked", "keyCompromise")
    assert "it is revoked since" in node.run("cert", "revoke", node.serial(0), code=1)
    assert "never issued" in node.run("cert", "revoke", "abcdef", "--authority", "issuing", code=1)
    assert "is not a revocation reason" in node.run("cert", "revoke", node.serial(1), "--reason", "boredom", code=2)
    assert "is no file" in node.run("cert", "show", "/no/such/file", code=2)


def test_the_key_for_an_sftp_target_is_made_once_and_shown(node: Node) -> None:
    key = node.directory / "mirror_key"
    config = node.config.read_text()
    target = f'name = "mirror"\nsftp = "crl@127.0.0.1"\nkey = "{key}"\nknown_hosts = "{node.directory}/hosts"'
    try:
        node.config.write_text(f"{config}\n[[crl_target]]\n{target}\n")
        first = node.run("crl", "target-key", "mirror")
        assert re.fullmatch(r"ssh-ed25519 \S+ pkiserver-mirror\n", first)
        assert key.stat().st_mode & 0o777 == 0o600
        assert node.run("crl", "target-key", "mirror") == first
        assert "there is no SFTP target" in node.run("crl", "target-key", "other", code=2)
    finally:
        node.config.write_text(config)


def test_lists_are_issued_listed_shown_and_signed_from_files(node: Node) -> None:
    node.run("cert", "revoke", node.serial(2), "--reason", "superseded")
    issued = node.json("crl", "issue", "issuing")
    [newest] = node.json("crl", "list")
    assert newest["number"] == issued["number"]
    assert newest["path"].startswith("/crl/issuing")
    out = node.directory / "issued.crl"
    node.run("crl", "show", "issuing", "--out", out)
    crl = x509.load_der_x509_crl(out.read_bytes())
    assert f"{crl.get_revoked_certificate_by_serial_number(int(node.serial(2), 16)).serial_number:x}" == node.serial(2)  # type: ignore[union-attr]
    assert "BEGIN X509 CRL" in node.run("crl", "show", "issuing", "--pem")

    assert newest["point"] == node.json("crl", "show", "issuing")["point"] == "full"
    assert newest["covers"] == "all certificates, of the name"
    assert "has no distribution point 'shards/1'" in node.run("crl", "issue", "issuing", "--point", "shards/1", code=1)
    assert "has no deltas" in node.run("crl", "issue", "issuing", "--delta", code=2)
    assert "there is no such CRL" in node.run("crl", "show", "issuing", "--delta", code=1)

    issuer = node.directory / "issuer.der"
    issuer.write_bytes(node.issuer)
    signed = node.directory / "offline.crl"
    stores = node.directory / "stores.toml"  # of a machine that has keys and no database
    stores.write_text(node.config.read_text()[node.config.read_text().index("[[key_store]]") :])
    stores.chmod(0o600)
    run(
        stores,
        *("crl", "sign", "--certificate", issuer, "--key", node.key_uri, "--previous", out, "--out", signed),
        *("--revoke", f"{node.serial(1)}=cessationOfOperation", "--days", "30"),
    )
    strange = node.directory / "strange.der"
    strange.write_bytes(Other(datetime.now(UTC)).leaf(int(node.serial(1), 16)).public_bytes(Encoding.DER))
    told = run(
        stores,
        *("crl", "sign", "--certificate", issuer, "--key", node.key_uri, "--out", signed, "--revoke", strange),
        code=2,
    )
    assert "was issued by another authority" in told
    offline = x509.load_der_x509_crl(signed.read_bytes())
    assert len(offline) == len(crl) + 1
    assert lint_crl(signed.read_bytes()) == []
    number = offline.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == issued["number"] + 1
    assert node.json("crl", "import", "issuing", signed)["number"] == number
    assert "does not rise" in node.run("crl", "import", "issuing", signed, code=1)
    assert len(node.json("crl", "list", "issuing", "--all")) == 2
    assert "there is no authority" in node.run("crl", "issue", "nobody", code=1)

    assert node.json("crl", "advance", "issuing", "--past", signed)["number"] == number
    assert node.json("crl", "advance", "issuing", "--by", 1000)["number"] == number + 1000
    assert node.json("crl", "issue", "issuing")["number"] == number + 1001
    assert "say one of" in node.run("crl", "advance", "issuing", code=2)


def test_a_number_is_never_given_twice_where_the_database_is_restored_after_a_list_was_issued(node: Node) -> None:
    database = node.directory / "pkiserver.db"
    saved = node.directory / "saved.db"
    node.run("database", "backup", saved)
    issued = node.json("crl", "issue", "issuing")["number"]
    for old in node.directory.glob("pkiserver.db*"):
        old.unlink()
    shutil.copy(saved, database)
    assert node.json("crl", "issue", "issuing")["number"] > issued
