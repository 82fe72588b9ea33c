"""Every ``pkiserver addressbook`` command, run as an administrator runs it; the directories with a real slapd."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pkiserver.runtime.engine import Engine
from tests.protocols.addressbook.support import TEMPLATES, enrolled
from tests.support.commands import run, run_json
from tests.support.engines import engine_with
from tests.support.keys import software_store
from tests.support.slapd import ADMIN, ADMIN_PASSWORD, SUFFIX, Slapd

ANNA = "anna@example.org"


@attrs.frozen
class Node:
    """A configured node without a running server."""

    folder: Path
    anna: bytes
    partner: bytes

    def run(self, *arguments: object, code: int = 0) -> str:
        """What an ``addressbook`` command prints."""
        return self.any("addressbook", *arguments, code=code)

    def any(self, *arguments: object, code: int = 0) -> str:
        """What a command prints, on stdout or, where it fails, on both."""
        return run(self.folder / "pkiserver.toml", *arguments, code=code)

    def json(self, *arguments: object, code: int = 0) -> Any:
        """The same as JSON."""
        return run_json(self.folder / "pkiserver.toml", "addressbook", *arguments, code=code)


@asynccontextmanager
async def filled(folder: Path) -> AsyncIterator[Engine]:
    async with engine_with(folder, TEMPLATES) as engine:
        yield engine


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, on_reactor: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]
) -> Node:
    folder = tmp_path_factory.mktemp("node")
    key = rsa.generate_private_key(65537, 2048)

    async def fill() -> tuple[bytes, bytes]:
        async with filled(folder) as engine:
            anna = await enrolled(engine, "Anna Example", (ANNA,), key=key)
            partner = await enrolled(engine, "Paul", ("paul@partner.example",), template="private")
            chain = (x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in anna.chain)
            (folder / "chain.pem").write_bytes(b"".join(chain))
            return anna.der, partner.der

    anna, partner = on_reactor(fill)
    store = software_store(folder)
    config = folder / "pkiserver.toml"
    config.write_text(
        f'state_dir = "{folder}"\n[database]\nurl = "sqlite:///{folder}/db"\n'
        f'[[key_store]]\nname = "{store.name}"\ndirectory = "{store.directory}"\n'
        f'passphrase_source = "{store.passphrase_source}"\n[passwords]\nmemory_kib = 8192\npasses = 1\n'
    )
    config.chmod(0o600)
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    (folder / "anna.key").write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()))
    (folder / "anna.pem").write_bytes(x509.load_der_x509_certificate(anna).public_bytes(pem))
    (folder / "paul.pem").write_bytes(x509.load_der_x509_certificate(partner).public_bytes(pem))
    (folder / "writer").write_text(f"{ADMIN_PASSWORD}\n")
    return Node(folder, anna, partner)


@pytest.fixture(scope="module")
def slapd() -> Iterator[Slapd]:
    server = Slapd()
    server.load(
        f"dn: uid=anna,ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: anna\ncn: Anna\nsn: A\nmail: {ANNA}\n"
    )
    yield server
    server.discard()


def test_show_optout_and_optouts(node: Node) -> None:
    (shown,) = node.json("show", "Anna@Example.org")
    assert (shown["address"], shown["tree"], len(shown["certificates"])) == (ANNA, "people", 1)
    assert "cn=Anna Example" in shown["names"]
    assert node.json("optout", ANNA) == {"address": ANNA, "changed": True}
    assert "nobody is found" in node.run("show", ANNA)
    (out,) = node.json("optouts")
    assert out["address"] == ANNA
    assert "shown again" in node.run("optout", ANNA, "--undo")
    for mistyped in ("", "anna", "@example.org", "anna@", f"{'a' * 400}@example.org"):
        assert "this is no mail address" in node.run("optout", mistyped, code=1), "who is left out is none of ours"
    assert node.json("optouts") == []


def test_a_contact_is_put_replaced_listed_and_removed(node: Node) -> None:
    paul = "paul@partner.example"
    assert "is not for" in node.run("contacts", "put", ANNA, node.folder / "paul.pem", code=1)
    assert "kept" in node.run("contacts", "put", paul, node.folder / "paul.pem", "--name", "Paul Partner")
    assert "already" in node.run("contacts", "put", paul, node.folder / "paul.pem", code=1)
    assert node.json("contacts", "put", paul, node.folder / "paul.pem", "--replace")["certificates"] == 1
    (one,) = node.json("contacts", "list")
    assert (one["address"], one["certificates"]) == (paul, 1)
    assert [row["tree"] for row in node.json("show", paul)] == ["contacts"]
    assert "removed" in node.run("contacts", "remove", paul)
    assert "there is no contact" in node.run("contacts", "remove", paul, code=1)
    assert node.json("contacts", "list") == []


def test_publish_takes_only_what_the_person_signed(node: Node) -> None:
    (node.folder / "empty").write_bytes(b"")
    signed = node.folder / "anna.p7s"
    subprocess.run(
        [
            *("openssl", "cms", "-sign", "-binary", "-nodetach", "-outform", "DER", "-md", "sha256"),
            *("-in", "empty", "-signer", "anna.pem", "-inkey", "anna.key", "-certfile", "chain.pem"),
            *("-out", str(signed)),
        ],
        cwd=node.folder,
        check=True,
        timeout=20,
    )
    assert f"Published for {ANNA}" in node.run("publish", ANNA, signed)
    assert "is not for" in node.run("publish", "other@example.org", signed, code=1)
    assert node.run("publish", ANNA, node.folder / "anna.pem", code=1)


def test_smimea_records(node: Node) -> None:
    whole = node.run("smimea", ANNA)
    assert whole.endswith(f" IN SMIMEA 3 0 0 {node.anna.hex()}\n")
    hashed = node.run("smimea", ANNA, "--usage", "ta", "--selector", "1", "--matching", "1").split()
    assert (hashed[2:6], len(hashed[6])) == (["SMIMEA", "2", "1", "1"], 64)
    assert "nobody is found" in node.run("smimea", "nobody@example.org", code=1)


def test_diff_and_resync_of_the_index(node: Node) -> None:
    template = node.folder / "smime.toml"
    template.write_text(TEMPLATES["smime"].replace("addressbook = true", 'addressbook = true\nattributes = ["cn"]'))
    node.any("apply", template, "--yes")
    sn_is_gone = node.json("diff", code=1)
    assert [row["surplus"] for row in sn_is_gone] == [1]
    assert node.json("resync") == {"changed": 1}
    assert node.json("diff") == []


def test_a_directory_from_its_file_to_its_resynchronisation(node: Node, slapd: Slapd) -> None:
    assert "nothing is published outwards" in node.run("targets")
    assert "there is no usable directory corporate" in node.run("diff", "corporate", code=1)
    file = node.folder / "corporate.toml"
    file.write_text(
        f'kind = "directory"\nname = "corporate"\nservers = ["{slapd.url}"]\ninsecure = true\n'
        f'base = "ou=people,{SUFFIX}"\nbind_name = "{ADMIN}"\nbind_password = "file:{node.folder}/writer"\n'
        'smime_attribute = "userSMIMECertificate"\n'
    )
    assert "1 changed" in node.any("apply", file, "--yes")
    assert file.read_text() in node.any("export", "directory/corporate")
    (row,) = node.json("diff", "corporate", code=1)
    assert (row["address"], row["entry"], len(row["missing"])) == (ANNA, f"uid=anna,ou=people,{SUFFIX}", 1)
    done = node.json("resync", "corporate")
    assert (done["mended"], done["failed"]) == (1, [])
    held = slapd.search(f"uid=anna,ou=people,{SUFFIX}", "userCertificate", "userSMIMECertificate")
    assert f"userCertificate;binary:: {base64.b64encode(node.anna).decode()}" in held
    message = base64.b64encode((node.folder / "anna.p7s").read_bytes()).decode()
    assert f"userSMIMECertificate:: {message}" in held
    assert node.json("diff", "corporate") == []
    (target,) = node.json("targets")
    assert (target["target"], target["waiting"], target["failed"]) == ("directory/corporate", 0, 0)
    node.run("optout", ANNA)
    (target,) = node.json("targets")
    assert target["waiting"] == 1, "the change waits for the server, which does not run"
    (row,) = node.json("diff", "corporate", code=1)
    assert (len(row["surplus"]), row["smime_surplus"]) == (1, 1)
    assert node.json("resync", "corporate")["mended"] == 1
    held = slapd.search(f"uid=anna,ou=people,{SUFFIX}", "userCertificate", "userSMIMECertificate")
    assert "::" not in held
    node.run("optout", ANNA, "--undo")
    slapd.stop()
    try:
        assert "refused" in node.run("resync", "corporate", code=75)
        told = {one["name"]: one for one in json.loads(node.any("doctor", "--json", code=1))["results"]}
        assert told["directory:corporate"]["health"] == "failed"
    finally:
        slapd.start()
    assert "1 changed" in node.any("apply", "--delete", "directory/corporate", "--yes")
