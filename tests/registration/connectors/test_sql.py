"""The SQL connector over PostgreSQL, MariaDB and SQLite, with hashes that other programs made."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.registration.connectors import hashes
from pkiserver.registration.connectors.settings import load_connector
from pkiserver.registration.connectors.sql import SqlConnector
from pkiserver.registration.connectors.sqlsettings import HashFormat
from pkiserver.registration.connectors.values import Denied, Shown, Step
from tests.support.mariadb import MariaDb
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.tlsfiles import TestCa

reactor: Any = _reactor
ALL = tuple(HashFormat)
PASSWORD = "password"
ROWS = """
CREATE TABLE people (login VARCHAR(100), hash VARCHAR(200), mail VARCHAR(100), teams VARCHAR(100));
INSERT INTO people VALUES ('alice', '{hash}', 'alice@example.org', 'staff, engineers');
INSERT INTO people VALUES ('bob', '{hash}', NULL, NULL);
INSERT INTO people VALUES ('plain', 'password', 'p@example.org', NULL);
INSERT INTO people VALUES ('twice', '{hash}', 'a@example.org', NULL);
INSERT INTO people VALUES ('twice', '{hash}', 'b@example.org', NULL)
"""
SETTINGS = """
query = "SELECT hash, mail, teams FROM people WHERE login = :userid"
password_column = "hash"
groups = "teams"
[[sql.attributes]]
name = "mail"
from = "mail"
required = true
"""


def made(url: str, more: str = SETTINGS) -> SqlConnector:
    settings = load_connector(f'name = "crm"\nkind = "connector"\n[sql]\nurl = "{url}"\n{more}', "crm.toml").sql
    assert settings is not None
    return SqlConnector("crm", settings)


def rows() -> list[str]:
    stored = hashes.crypt(b"password", "$2b$04$abcdefghijklmnopqrstuu")
    assert stored is not None
    return ROWS.format(hash=stored).strip().split(";\n")


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDb]:
    server = MariaDb("reader secret")
    server.run(*rows(), database="customer")
    yield server
    server.discard()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url_and_more(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    if request.param == "sqlite":
        with sqlite3.connect(tmp_path / "people.db") as connection:
            connection.executescript(";\n".join(rows()))
        return f"sqlite:///{tmp_path}/people.db", SETTINGS
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_url()
        with psycopg.connect(url, autocommit=True) as connection:
            for row in rows():
                connection.execute(row)  # type: ignore[call-overload]
        return url, SETTINGS
    monkeypatch.setenv("CRM_PASSWORD", "reader secret")
    maria: MariaDb = request.getfixturevalue("mariadb")
    return f"mariadb://reader@127.0.0.1:{maria.port}/customer", f'password = "env:CRM_PASSWORD"\n{SETTINGS}'


async def test_somebody_and_nobody(url_and_more: tuple[str, str]) -> None:
    connector = made(*url_and_more)
    try:
        shown = await connector.authenticate("alice", Secret(PASSWORD))
        assert isinstance(shown, Shown)
        assert shown.groups == {"staff", "engineers"}
        assert shown.attributes == (("mail", "alice@example.org"),)
        for name, password, step in (
            ("alice", "wrong", Step.PASSWORD),
            ("alice", "", Step.PASSWORD),
            ("nobody", PASSWORD, Step.USER),
            ("twice", PASSWORD, Step.USER),
            ("plain", PASSWORD, Step.PASSWORD),
            ("bob", PASSWORD, Step.ATTRIBUTE),
            ("' OR '1'='1", PASSWORD, Step.USER),
            ("alice'; DROP TABLE people; --", PASSWORD, Step.USER),
        ):
            denied = await connector.authenticate(name, Secret(password))
            assert isinstance(denied, Denied), name
            assert denied.step is step, name
        assert [one.step for one in await connector.check(None, None)] == [Step.FINE]
        assert [one.step for one in await connector.check("nobody", None)] == [Step.USER]
        assert [one.step for one in await connector.check("alice", Secret(PASSWORD))] == [Step.FINE]
        (broken,) = await made(url_and_more[0], url_and_more[1].replace("people", "absent")).check(None, None)
        assert not broken.fine
    finally:
        connector.close()


async def test_what_a_check_tells_apart(mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def step(url: str, more: str = "") -> Step:
        connector = made(url, more + 'answer_timeout = "1s"\nconnect_timeout = "2s"\n' + SETTINGS)
        try:
            return (await connector.check(None, None))[0].step
        finally:
            connector.close()

    monkeypatch.setenv("CRM_PASSWORD", "wrong")
    secret = 'password = "env:CRM_PASSWORD"\n'
    assert await step(f"mysql://reader@127.0.0.1:{mariadb.port}/customer", secret) is Step.BIND
    assert await step(f"mysql://reader@127.0.0.1:{mariadb.port}/customer", 'password = "env:NONE"\n') is Step.SETTINGS
    assert await step("mysql://reader@no.such.host.invalid/customer", f"insecure = true\n{secret}") is Step.RESOLVE
    assert await step(f"mysql://reader@127.0.0.1:{free_port()}/customer", secret) is Step.CONNECT
    assert await step(f"postgresql://reader@127.0.0.1:{free_port()}/customer") is Step.CONNECT
    assert await step("postgresql://reader@no.such.host.invalid/customer", "insecure = true\n") is Step.RESOLVE
    assert await step(f"sqlite:///{tmp_path}/absent.db") is Step.CONNECT
    assert not (tmp_path / "absent.db").exists()
    absent = f'trust = "{tmp_path / "absent.pem"}"\n'
    assert await step(f"mysql://reader@127.0.0.1:{mariadb.port}/customer", secret + absent) is Step.SETTINGS


async def test_a_column_that_the_query_does_not_give_is_said_before_anybody_is_looked_for(
    url_and_more: tuple[str, str],
) -> None:
    url, more = url_and_more
    for wanted, text in (("password_column", "hsh"), ("groups", "tems")):
        connector = made(url, more.replace(f'{wanted} = "{text[0]}', f'{wanted} = "{text}x'))
        try:
            [found] = await connector.check(None, None)
            assert found.step is Step.SETTINGS
            assert "(it gives: hash, mail, teams)" in found.text
            with pytest.raises(Unavailable, match="gives no column"):  # no wrong guess of whoever asks
                await connector.authenticate("alice", Secret(PASSWORD))
        finally:
            connector.close()


async def test_a_hash_of_a_format_that_is_not_allowed_is_named_and_not_shown(url_and_more: tuple[str, str]) -> None:
    url, more = url_and_more
    connector = made(url, f'formats = ["argon2"]\n{more}')
    try:
        [bcrypt] = await connector.check("alice", Secret(PASSWORD))
        assert (bcrypt.step, bcrypt.text) == (
            Step.PASSWORD,
            "column hash is a hash of the format bcrypt (allowed by formats: argon2)",
        )
        [plain] = await connector.check("plain", Secret(PASSWORD))
        assert plain.text == "column hash is no hash of a known format (allowed by formats: argon2)"
    finally:
        connector.close()


async def test_a_database_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"mysql://reader@127.0.0.1:{mute.getsockname()[1]}/customer"
        connector = made(url, 'answer_timeout = "1s"\nconnect_timeout = "1s"\n' + SETTINGS)
        tries = [Deferred.fromCoroutine(connector.authenticate("alice", Secret(PASSWORD))) for _ in range(12)]
        results = await DeferredList(tries, consumeErrors=True)
        assert len(results) == 12
        assert all(failure.check(Unavailable) for _, failure in results)
        connector.close()


async def test_who_was_given_up_does_not_stand_before_those_who_come_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        asked: list[socket.socket] = []

        def count() -> None:
            with contextlib.suppress(OSError):
                while True:
                    asked.append(mute.accept()[0])

        threading.Thread(target=count, daemon=True).start()
        url = f"mysql://reader@127.0.0.1:{mute.getsockname()[1]}/customer"
        connector = made(url, 'answer_timeout = "1s"\nconnect_timeout = "1s"\n' + SETTINGS)
        tries = [Deferred.fromCoroutine(connector.authenticate("alice", Secret(PASSWORD))) for _ in range(40)]
        await DeferredList(tries, consumeErrors=True)
        statistics = connector._pool._team.statistics
        while statistics().busyWorkerCount or statistics().backloggedWorkCount:
            await deferLater(reactor, 0.05)
        # four threads, three seconds, and each waits a second for an answer
        assert len(asked) <= 20
        connector.close()
        for one in asked:
            one.close()


@pytest.mark.parametrize(
    ("stored", "password", "kind"),
    [
        # openwall's crypt_blowfish test vectors
        ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "U*U", HashFormat.BCRYPT),
        ("$2a$05$CCCCCCCCCCCCCCCCCCCCC.VGOzA784oUp/Z0DY336zx7pLYAy0lwK", "U*U*", HashFormat.BCRYPT),
        # RFC 6070, 1 round over "password"/"salt" as passlib writes it (salt and hash in its base64)
        ("$pbkdf2$4096$c2FsdA$SwB5AbdlSJq.rUnZJvch0GWkKcE", "password", HashFormat.PBKDF2),
        (
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "password",
            HashFormat.ARGON2,
        ),
    ],
)
def test_hashes_of_other_programs(stored: str, password: str, kind: HashFormat) -> None:
    assert hashes.format_of(stored) is kind
    assert hashes.verify(stored, password.encode(), ALL)
    assert not hashes.verify(stored, password.encode() + b"x", ALL)
    assert not hashes.verify(stored, password.encode(), tuple(one for one in ALL if one is not kind))


@pytest.mark.parametrize(
    ("option", "kind"), [("-1", HashFormat.CRYPT_MD5), ("-5", HashFormat.CRYPT), ("-6", HashFormat.CRYPT)]
)
def test_crypt_as_openssl_makes_it(option: str, kind: HashFormat) -> None:
    command = ["openssl", "passwd", option, "-salt", "saltsalt", "Hello world!"]
    stored = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert hashes.format_of(stored) is kind
    assert hashes.verify(stored, b"Hello world!", (kind,))
    assert not hashes.verify(stored, b"hello world!", (kind,))


def test_pbkdf2_by_the_vector_of_rfc_7914() -> None:
    derived = bytes.fromhex("55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc")
    for stored in (
        f"pbkdf2_sha256$1$salt${b64encode(derived).decode()}",
        f"$pbkdf2-sha256$i=1$c2FsdA${b64encode(derived).decode().rstrip('=')}",
    ):
        assert hashes.format_of(stored) is HashFormat.PBKDF2
        assert hashes.verify(stored, b"passwd", (HashFormat.PBKDF2,))
        assert not hashes.verify(stored, b"Passwd", (HashFormat.PBKDF2,))


def test_yescrypt_of_this_machine() -> None:
    stored = hashes.crypt(b"password", "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$")
    assert stored is not None
    assert stored.startswith("$y$")
    assert hashes.verify(stored, b"password", (HashFormat.CRYPT,))


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "password",
        "*",
        "!",
        "$6$rounds=999999999$salt$x" + "a" * 85,
        "pbkdf2_sha256$999999999$salt$" + "a" * 43 + "=",
        "$argon2id$v=19$m=99999999,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
        "$2b$31$" + "a" * 53,
    ],
)
def test_what_is_no_hash_or_too_dear_is_never_right(stored: str) -> None:
    assert hashes.format_of(stored) is None
    assert not hashes.verify(stored, stored.encode(), ALL)


@pytest.mark.parametrize(
    ("url", "more", "what"),
    [
        ("oracle://x/y", SETTINGS, "supported"),
        ("mysql://u:secret@h/d", SETTINGS, "supported"),
        ("sqlite:///people.db", SETTINGS, "depends on where the program runs"),
        ("mysql://u@h/d", 'query = "SELECT 1"', "only parameter"),
        ("mysql://u@h/d", 'query = "DELETE FROM x WHERE a = :userid"', "not one query"),
        ("mysql://u@h/d", 'query = "SELECT 1; DROP TABLE x WHERE a = :userid"', "not one query"),
        ("mysql://u@h/d", "formats = []\n" + SETTINGS, "no password at all"),
    ],
)
def test_settings_that_cannot_be_meant(url: str, more: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        made(url, more)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> TestCa:
    return TestCa(tmp_path_factory.mktemp("tls"), "Database CA")


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def secure_url(request: pytest.FixtureRequest, ca: TestCa) -> Iterator[str]:
    """A server that lets nobody in without TLS."""
    tls = ca.issue(f"database-{request.param}", hosts=("127.0.0.1",))
    server: MariaDb | PostgresServer
    if request.param == "mariadb":
        server = MariaDb("reader secret", tls=tls)
        server.run(*rows(), database="customer")
        url = f"mariadb://reader@127.0.0.1:{server.port}/customer"
    else:
        server = PostgresServer()
        url = server.new_url()
        with psycopg.connect(url, autocommit=True) as connection:
            for row in rows():
                connection.execute(row)  # type: ignore[call-overload]
        server.only_tls(*tls)
    yield url
    server.discard()


async def test_tls_by_our_own_trust_anchors(
    secure_url: str, ca: TestCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_PASSWORD", "reader secret")
    login = 'password = "env:CRM_PASSWORD"\n'
    trusting = made(secure_url, f'{login}trust = "file:{ca.file}"\n{SETTINGS}')
    other = TestCa(tmp_path, "Other CA")
    distrusting = made(secure_url, f'{login}trust = "{other.file}"\n{SETTINGS}')
    wrong_name = made(secure_url.replace("127.0.0.1", "localhost"), f'{login}trust = "{ca.file}"\n{SETTINGS}')
    try:
        assert isinstance(await trusting.authenticate("alice", Secret(PASSWORD)), Shown)
        assert isinstance(await trusting.authenticate("alice", Secret("wrong")), Denied)
        for connector, why in (
            (distrusting, "was issued by 'CN=Database CA', which is not among the trust anchors"),
            (wrong_name, "is for 127.0.0.1, not for localhost (issued by 'CN=Database CA')"),
        ):
            [found] = await connector.check("alice", Secret(PASSWORD))
            assert found.step is Step.TLS, found
            assert why in found.text
            with pytest.raises(Unavailable):
                await connector.authenticate("alice", Secret(PASSWORD))
    finally:
        for one in (trusting, distrusting, wrong_name):
            one.close()


def test_passwords_of_customers_travel_to_other_machines_by_tls_only() -> None:
    for scheme in ("postgresql", "mysql", "mariadb"):
        with pytest.raises(ConfigurationError, match="trust"):
            made(f"{scheme}://reader@db.example.org/crm")
        made(f"{scheme}://reader@db.example.org/crm", f"insecure = true\n{SETTINGS}").close()
        made(f"{scheme}://reader@127.0.0.1/crm").close()
