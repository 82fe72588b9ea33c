"""``connector check``, each kind of connector with each thing that it can tell apart; the counterparts are real."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from pkiserver.foundation.secret import Secret
from pkiserver.registration.connectors import hashes
from pkiserver.registration.connectors.library import open_connector
from pkiserver.registration.connectors.settings import load_connector
from pkiserver.registration.connectors.values import Step
from pkiserver.runtime.engine import Engine
from pkiserver.store.authority.templates import ConfigObject
from tests.support.engines import engine_with
from tests.support.freeradius import PASSWORD as RADIUS_PASSWORD
from tests.support.freeradius import SECRET as RADIUS_SECRET
from tests.support.freeradius import FreeRadius
from tests.support.mailserver import PASSWORD as MAIL_PASSWORD
from tests.support.mailserver import USER as MAIL_USER
from tests.support.mailserver import MailServer
from tests.support.mdm import CLIENT_ID, CLIENT_SECRET, Mdm
from tests.support.ports import free_port
from tests.support.slapd import SUFFIX, USER_PASSWORD, Slapd
from tests.support.tlsfiles import TestCa
from tests.support.webhook import SECRET, Webhook

NOWHERE = "no.such.host.invalid"
TABLES = {
    "ldap": f"""
servers = ["ldap://ADDRESS"]
insecure = true
connect_timeout = "500ms"
answer_timeout = "500ms"
base = "ou=people,{SUFFIX}"
service_name = "cn=pki,{SUFFIX}"
service_password = "env:LDAP_SERVICE"
""",
    "radius": 'servers = ["ADDRESS"]\nsecret = "env:RADIUS_SECRET"\nanswer_timeout = "200ms"\ntries = 1\n',
    "postgresql": 'url = "postgresql://reader@ADDRESS/crm"\ninsecure = true\n',
    "mysql": 'url = "mysql://reader@ADDRESS/crm"\ninsecure = true\n',
    "webhook": 'url = "http://ADDRESS/"\nsecret = "env:HOOK_SECRET"\nanswer_timeout = "200ms"\n',
    "crl": 'crls = ["http://ADDRESS/x.crl"]\nanswer_timeout = "200ms"\n',
    "ocsp": 'ocsp = "http://ADDRESS/"\nanswer_timeout = "200ms"\n',
    "intune": """
url = "http://127.0.0.1/"
token_url = "http://ADDRESS/token"
client_id = "the-ca"
client_secret = "env:MDM_SECRET"
answer_timeout = "200ms"
""",
    "mail": 'servers = ["smtp://ADDRESS"]\nsender = "pki@example.org"\nanswer_timeout = "500ms"\n',
}
QUERY = 'query = "SELECT login, hash AS password, mail, team FROM people WHERE login = :userid"\n'
OF_KIND = {"postgresql": "sql", "mysql": "sql", "crl": "certificate", "ocsp": "certificate"}
LOOPBACK_ONLY = {"webhook", "intune"}
"""Connectors whose ``http://`` is for this machine; another one is asked under TLS."""


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> TestCa:
    return TestCa(tmp_path_factory.mktemp("ca"), "Servers CA")


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDAP_SERVICE", "service secret")
    monkeypatch.setenv("RADIUS_SECRET", RADIUS_SECRET)
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("MDM_SECRET", CLIENT_SECRET)
    monkeypatch.setenv("MAIL_PASSWORD", MAIL_PASSWORD)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Engine]:
    async with engine_with(folder, {}) as engine:
        yield engine


async def found(
    engine: Engine, kind: str, table: str, name: str | None = None, password: str | None = None
) -> tuple[Step, str]:
    """The worst line of a check."""
    text = f'name = "it"\nkind = "connector"\n[{OF_KIND.get(kind, kind)}]\n{table}'
    row = ConfigObject("connector", "it", 1, text, engine.clock.now())
    backend = open_connector(load_connector(text, "it.toml"), row, engine.clock, engine.database, engine.audit).backend
    try:
        lines = await backend.check(name, None if password is None else Secret(password))
    finally:
        backend.close()
    worst = next((one for one in lines if not one.fine), lines[0])
    return worst.step, worst.text


def table(kind: str, address: str, ca: TestCa) -> str:
    text = TABLES[kind].replace("ADDRESS", address)
    if OF_KIND.get(kind) == "certificate":
        text += f"anchors = '''{ca.pem}'''\nname = \"subject.common_name\"\n"
    if OF_KIND.get(kind) == "sql":
        text += f'{QUERY}connect_timeout = "1s"\nanswer_timeout = "1s"\n'
    if kind in LOOPBACK_ONLY and not address.startswith("127."):
        text = text.replace("http://", "https://") + f"[{kind}.tls]\ntrust = '''{ca.pem}'''\n"
    elif kind == "mail":
        text += f"[mail.tls]\ntrust = '''{ca.pem}'''\n"
    return text


async def test_every_kind_tells_how_far_it_came(tmp_path: Path, ca: TestCa) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf,
    ):
        deaf.bind(("127.0.0.1", 0))
        silent = {"radius": f"127.0.0.1:{deaf.getsockname()[1]}"}
        async with opened(tmp_path) as engine:
            for kind in TABLES:
                step, text = await found(engine, kind, table(kind, NOWHERE, ca))
                assert step is Step.RESOLVE, (kind, step, text)
                step, text = await found(engine, kind, table(kind, f"127.0.0.1:{free_port()}", ca))
                assert step is Step.CONNECT, (kind, step, text)
                address = silent.get(kind, f"127.0.0.1:{mute.getsockname()[1]}")
                step, text = await found(engine, kind, table(kind, address, ca))
                assert step is Step.SILENT, (kind, step, text)


@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # the test's server does not count TLS from the start as TLS
@pytest.mark.parametrize("kind", ["webhook", "intune", "mail"])
async def test_a_server_that_is_not_trusted_is_told_with_its_name_and_issuer(
    tmp_path: Path, ca: TestCa, kind: str
) -> None:
    """As LDAP's and the databases' are in their own tests; RADIUS, CRLs and OCSP have no TLS."""
    other = TestCa(tmp_path, "Another CA")
    files = ca.issue(f"for-{kind}", hosts=("127.0.0.1",))
    async with opened(tmp_path / "engine") as engine:
        with over_tls(kind, files) as port:
            for trust, host, why in (
                (other, "127.0.0.1", "issued by 'CN=Servers CA', which is not among the trust anchors"),
                (ca, "localhost", "is for 127.0.0.1, not for localhost (issued by 'CN=Servers CA')"),
            ):
                text = TABLES[kind].replace("ADDRESS", f"{host}:{port}").replace("http://", "https://")
                text = text.replace("smtp://", "smtps://") + f"[{kind}.tls]\ntrust = '''{trust.pem}'''\n"
                step, said = await found(engine, kind, text)
                assert step is Step.TLS, (step, said)
                assert why in said


@contextmanager
def over_tls(kind: str, files: tuple[Path, Path]) -> Iterator[int]:
    """A server with a certificate, of the protocol that the connector speaks or of one with the same beginning."""
    server: Webhook | MailServer
    server = MailServer(tls=files, from_the_start=True) if kind == "mail" else Webhook(lambda _: {}, tls=files)
    try:
        yield server.port
    finally:
        server.close()


def mapped(kind: str, source: str) -> str:
    return f'[[{kind}.attributes]]\nname = "mail"\nfrom = "{source}"\nrequired = true\n'


async def test_what_is_wrong_with_a_user_is_told_apart_by_every_kind_that_knows_users(
    tmp_path: Path, ca: TestCa
) -> None:
    async with opened(tmp_path) as engine:

        async def told(kind: str, text: str, name: str, password: str | None = None) -> Step:
            return (await found(engine, kind, text, name, password))[0]

        directory = Slapd()
        try:
            plain = table("ldap", f"127.0.0.1:{directory.port}", ca)
            groups = f'[ldap.groups]\nbase = "ou=groups,{SUFFIX}"\nrequired = ["cn=none,ou=groups,{SUFFIX}"]\n'
            assert await told("ldap", plain, "nobody") is Step.USER
            assert await told("ldap", plain, "bob", "wrong") is Step.PASSWORD
            assert await told("ldap", plain + groups, "bob", USER_PASSWORD) is Step.GROUP
            assert await told("ldap", plain + mapped("ldap", "mail"), "bob", USER_PASSWORD) is Step.ATTRIBUTE
            wrong = plain.replace("cn=pki,", "cn=nobody,")
            assert await told("ldap", wrong, "bob") is Step.BIND
        finally:
            directory.discard()

        radius = FreeRadius()
        try:
            plain = table("radius", f"127.0.0.1:{radius.port}", ca)
            groups = 'groups = "Filter-Id"\nrequired_groups = ["nobody"]\n'
            assert await told("radius", plain, "User", "wrong") is Step.PASSWORD
            assert await told("radius", plain + groups, "User", RADIUS_PASSWORD) is Step.GROUP
            lacking = plain + mapped("radius", "Reply-Message")
            assert await told("radius", lacking, "User", RADIUS_PASSWORD) is Step.ATTRIBUTE
        finally:
            radius.discard()

        stored = hashes.crypt(b"password", "$2b$04$abcdefghijklmnopqrstuu")
        with sqlite3.connect(tmp_path / "crm") as connection:
            connection.execute("CREATE TABLE people (login, hash, mail, team)")
            connection.execute("INSERT INTO people VALUES ('bob', ?, NULL, 'staff')", (stored,))
        plain = f'url = "sqlite:///{tmp_path}/crm"\n{QUERY}'
        assert await told("sql", plain, "nobody") is Step.USER
        assert await told("sql", plain, "bob", "wrong") is Step.PASSWORD
        groups = 'groups = "team"\nrequired_groups = ["nobody"]\n'
        assert await told("sql", plain + groups, "bob", "password") is Step.GROUP
        assert await told("sql", plain + mapped("sql", "mail"), "bob", "password") is Step.ATTRIBUTE

        yes = Webhook(lambda question: {"decision": "yes" if question["password"] == "right" else "no"})
        try:
            plain = table("webhook", f"127.0.0.1:{yes.port}", ca)
            assert await told("webhook", plain, "bob", "wrong") is Step.PASSWORD
            assert await told("webhook", plain + 'required_groups = ["staff"]\n', "bob", "right") is Step.GROUP
            assert await told("webhook", plain + mapped("webhook", "mail"), "bob", "right") is Step.ATTRIBUTE
        finally:
            yes.close()


async def test_a_service_that_does_not_let_this_server_in_is_told_apart(
    tmp_path: Path, ca: TestCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = MailServer(tls=ca.issue("post", hosts=("127.0.0.1",)))
    mdm = Mdm({})
    try:
        async with opened(tmp_path) as engine:
            login = f'user = "{MAIL_USER}"\npassword = "env:MAIL_PASSWORD"\n'
            mail = login + table("mail", f"127.0.0.1:{post.port}", ca)
            devices = table("intune", f"127.0.0.1:{mdm.port}", ca)
            assert CLIENT_ID in devices
            assert (await found(engine, "mail", mail))[0] is Step.FINE
            assert (await found(engine, "intune", devices))[0] is Step.FINE
            monkeypatch.setenv("MAIL_PASSWORD", "wrong")
            monkeypatch.setenv("MDM_SECRET", "wrong")
            assert (await found(engine, "mail", mail))[0] is Step.BIND
            step, text = await found(engine, "intune", devices)
            assert (step, "invalid_client" in text) == (Step.BIND, True)
            assert (await found(engine, "mail", mail, "nobody"))[0] is Step.BIND
    finally:
        post.close()
        mdm.close()
