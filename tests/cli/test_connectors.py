"""``pkiserver connector`` and ``account import`` as docs/registration.md shows them, against a slapd; and that page."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.authority.templates.library import load_template
from pkiserver.foundation import tomltypes
from pkiserver.registration.connectors.settings import Connector, load_connector
from tests.support.commands import configured, run, run_json
from tests.support.forked import completed
from tests.support.keys import software_store
from tests.support.ports import free_port
from tests.support.slapd import SUFFIX, USER_PASSWORD, Slapd
from tests.support.tlsfiles import TestCa

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "registration.md").read_text()
OnReactor = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node")
    path = configured(folder, software_store(folder), more="[passwords]\nmemory_kib = 8192\npasses = 1\n")
    (folder / "service").write_text("service secret\n")
    (folder / "password").write_text(USER_PASSWORD)
    return path


def ldap(url: str, folder: Path, more: str = "") -> str:
    return f"""
kind = "connector"
name = "staff"
[ldap]
servers = ["{url}"]
insecure = true
base = "ou=people,{SUFFIX}"
service_name = "cn=pki,{SUFFIX}"
service_password = "file:{folder}/service"
{more}
"""


def test_a_connector_from_file_to_check(config: Path, directory: Slapd, tmp_path: Path) -> None:
    file = tmp_path / "staff.toml"
    text = ldap(directory.url, config.parent)
    file.write_text(text)
    assert "add connector staff" in run(config, "apply", file, "--yes")
    (row,) = json.loads(run(config, "connector", "list", "--json"))
    assert (row["name"], row["connects_to"], row["enabled"]) == ("staff", "ldap", True)
    assert text.strip() in run(config, "connector", "show", "staff")
    assert run(config, "export", "connector/staff") == text
    assert "bound as cn=pki" in run(config, "connector", "check", "staff")
    assert "alice is known" in run(config, "connector", "check", "staff", "--user", "alice")
    right = ("--user", "alice", "--password-file", config.parent / "password")
    assert "alice is known" in run(config, "connector", "check", "staff", *right)
    assert "user not found" in run(config, "connector", "check", "staff", "--user", "nobody", code=1)
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    bad = ("--user", "alice", "--password-file", wrong)
    assert "password refused" in run(config, "connector", "check", "staff", *bad, code=1)
    groups = f'[ldap.groups]\nbase = "ou=groups,{SUFFIX}"\nrequired = ["cn=staff,ou=groups,{SUFFIX}"]\n'
    file.write_text(ldap(f"ldap://127.0.0.1:{free_port()}", config.parent, groups))
    assert "-servers" in run(config, "apply", file, "--yes")
    assert "cannot connect" in run(config, "connector", "check", "staff", code=1)
    doctor = json.loads(run(config, "doctor", "--json", code=1))
    assert any("connector:staff" in str(row) and "cannot connect" in str(row) for row in _rows(doctor))
    run(config, "connector", "check", "absent", code=1)
    run(config, "apply", "--delete", "connector/staff", "--yes")
    assert json.loads(run(config, "connector", "list", "--json")) == []


def test_a_check_of_a_connector_that_is_switched_off_says_so(config: Path, directory: Slapd, tmp_path: Path) -> None:
    file = tmp_path / "staff.toml"
    text = ldap(directory.url, config.parent)
    for enabled, said in ((text, False), (text.replace("[ldap]", "enabled = false\n[ldap]"), True)):
        file.write_text(enabled)
        run(config, "apply", file, "--yes")
        command = ("--config", str(config), "connector", "check", "staff")
        done = completed(command, dict(os.environ), seconds=60)
        assert "bound as cn=pki" in done.stdout
        assert ("is switched off" in done.stderr) is said
    run(config, "apply", "--delete", "connector/staff", "--yes")


def test_a_certificate_that_cannot_be_checked_is_a_line_beside_what_is_missing(config: Path, tmp_path: Path) -> None:
    certificate, _ = TestCa(tmp_path).issue("device")
    crl = f"http://127.0.0.1:{free_port()}/ca.crl"
    table = f'[certificate]\nanchors = "{tmp_path}/Test-CA.pem"\nname = "subject.common_name"\ncrls = ["{crl}"]\n'
    file = tmp_path / "factory.toml"
    file.write_text(f'kind = "connector"\nname = "factory"\n{table}')
    run(config, "apply", file, "--yes")
    shown = run(config, "connector", "check", "factory", "--certificate", certificate, "--json", code=1)
    findings = {row["finding"]: row["detail"] for row in json.loads(shown)}
    assert set(findings) == {"cannot connect", "fine", "bad answer"}
    assert "no CRL in force says whether 'CN=device' is revoked" in findings["bad answer"]
    run(config, "apply", "--delete", "connector/factory", "--yes")


def _rows(document: Any) -> list[Any]:
    return document if isinstance(document, list) else [row for value in document.values() for row in _listed(value)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_a_file_with_mistakes_changes_nothing(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('kind = "connector"\nname = "bad"\n[ldap]\nservers = ["ldap://h"]\nbase = "x"\nbasse = "y"\n')
    run(config, "apply", file, "--yes", code=1)
    assert json.loads(run(config, "connector", "list", "--json")) == []


def test_accounts_from_a_file_and_back(config: Path, tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text("name,password,groups,mail\nalice,a long password,staff,alice@example.org\nbob,,,\n")
    shown = run(config, "account", "import", people, "--dry-run")
    assert "add account alice\n+ group staff\n+ mail = alice@example.org\n+ a password" in shown
    assert json.loads(run(config, "account", "list", "--json")) == []
    assert "2 changed" in run(config, "account", "import", people, "--yes")
    assert "nothing to change (2 as they should be)" in run(config, "account", "import", people, "--yes")
    ldif = tmp_path / "people.ldif"
    ldif.write_text(run(config, "account", "export", "--format", "ldif"))
    assert "nothing to change" in run(config, "account", "import", ldif, "--replace", "--yes")
    people.write_text("name\nalice\n")
    assert "remove account bob" in run(config, "account", "import", people, "--replace", "--yes")
    run(config, "account", "import", people, "--format", "ldif", code=1)


def test_a_script_that_gives_no_password_is_told_the_option(config: Path) -> None:
    said = run(config, "account", "create", "carol", code=2)
    assert "nobody is there to be asked: give --password-file" in said


KINDS = ("ldap", "radius", "sql", "mail", "webhook", "certificate", "intune")


def examples(kind: str = "connector") -> list[str]:
    return [text for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if text.startswith(f'kind = "{kind}"')]


def test_the_page_s_examples_are_connectors() -> None:
    kinds = {load_connector(text, "page").connects_to for text in examples()}
    assert kinds == set(KINDS)


def test_the_page_s_template_is_taken_with_the_page_s_connectors(config: Path, tmp_path: Path) -> None:
    (text,) = examples("template")
    (tmp_path / "people.toml").write_text(text)
    load_template(text, "page")
    assert "add template people" in run(config, "apply", tmp_path / "people.toml", "--dry-run")


@pytest.mark.parametrize(("approval", "what"), [("", "gets a"), ("approval = true", "asks officers for a")])
def test_what_anonymous_means_is_told_before_it_holds(config: Path, tmp_path: Path, approval: str, what: str) -> None:
    (text,) = examples("template")
    rule = f'all = ["anonymous"]\n{approval}'
    (tmp_path / "open.toml").write_text(re.sub(r'all = \["password"\]\nconnectors.*', rule, text))
    said = run_json(config, "apply", tmp_path / "open.toml", "--dry-run")["notes"]
    assert f"template people: anonymous: whoever reaches the server {what} certificate" in said


@pytest.mark.parametrize("field", KINDS)
def test_the_page_explains_every_key(field: str) -> None:
    def keys(kind: object) -> Iterator[str]:
        found = next((one for one in tomltypes.union_members(kind) if tomltypes.attrs_class(one)), None)
        if found is None:
            array = tomltypes.array_of(tomltypes.union_members(kind)[0])
            found = array[1] if array is not None and tomltypes.attrs_class(array[1]) else None
        if isinstance(found, type):
            for one in tomltypes.fields(found):
                yield one.key
                yield from keys(one.type)

    kind = next(one.type for one in tomltypes.fields(Connector) if one.key == field)
    missing = [key for key in keys(kind) if not re.search(rf"(?<![a-z_]){key}(?![a-z_])", PAGE)]
    assert missing == []
