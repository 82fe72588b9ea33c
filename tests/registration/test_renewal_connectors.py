"""Renewal by whom a connector has shown: what became of the connector, and of the holder, since then."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pkiserver.authority.requests import (
    ClientCertificateEvidence,
    IssuedCertificate,
    OperatorEvidence,
    PasswordEvidence,
)
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration.connectors import hashes
from pkiserver.runtime.engine import Engine
from pkiserver.store.authority import templates
from tests.support.engines import engine_with, enrollment, template_text
from tests.support.webhook import SECRET, Webhook

ALICE = PasswordEvidence("alice", Secret("password"))
RULE = '[[evidence]]\nall = ["password"]\nconnectors = ["{}"]\n'
INTERNAL = '[[evidence]]\nall = ["password"]\n'


@pytest.fixture
def table(tmp_path: Path) -> Path:
    stored = hashes.crypt(b"password", "$2b$04$abcdefghijklmnopqrstuu")
    with sqlite3.connect(tmp_path / "crm") as connection:
        connection.execute("CREATE TABLE people (login, password, team)")
        connection.execute("INSERT INTO people VALUES ('alice', ?, 'staff')", (stored,))
    return tmp_path / "crm"


@pytest.fixture
def portal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    server = Webhook(lambda _: {"decision": "yes"})
    yield server
    server.close()


def crm(table: Path, more: str = "") -> str:
    query = "SELECT login AS userid, password, team FROM people WHERE login = :userid"
    rest = '\ngroups = "team"\nrequired_groups = ["staff"]\n'
    return f'name = "crm"\nkind = "connector"\n{more}[sql]\nurl = "sqlite:///{table}"\nquery = "{query}"{rest}'


def asks(portal: Webhook) -> str:
    head = 'name = "portal"\nkind = "connector"\n[webhook]\n'
    return f'{head}url = "http://127.0.0.1:{portal.port}/"\nsecret = "env:HOOK_SECRET"\n'


def people(connector: str, policy: str = "", rule: str | None = None) -> str:
    text = template_text("people", RULE.format(connector) if rule is None else rule)
    return text.replace("[renewal]\n", f"[renewal]\n{policy}")


async def put(engine: Engine, name: str, text: str | None, kind: str = "connector") -> None:
    now = engine.clock.now()
    known = await engine.database.read(lambda connection: templates.get(connection, name, kind=kind))
    expected = None if known is None else known.revision
    if text is None:
        assert expected is not None
        await engine.database.write(lambda c: templates.remove(c, name, expected=expected, kind=kind))
    else:
        await engine.database.write(lambda c: templates.put(c, name, text, now=now, expected=expected, kind=kind))
    await engine.refresh()
    assert (engine.connectors.problems(), engine.templates.problems()) == ((), ())


@asynccontextmanager
async def opened(folder: Path, connector: str, text: str, policy: str = "") -> AsyncIterator[tuple[Engine, bytes]]:
    """An engine, and a certificate that whom the connector shows has got."""
    async with engine_with(folder, {"people": people(connector, policy)}) as engine:
        await put(engine, connector, text)
        made = await engine.enroll(enrollment("people", ALICE))
        assert isinstance(made, IssuedCertificate)
        assert await renews(engine, made.der)
        yield engine, made.der


async def renews(engine: Engine, der: bytes, template: str = "people") -> bool:
    request = enrollment(template, ClientCertificateEvidence(der), renewal_of=der)
    try:
        made = await engine.enroll(request)
    except Rejected as error:
        return not error.has(Refusal.NOT_AUTHORISED)
    return isinstance(made, IssuedCertificate)


@pytest.mark.parametrize("policy", ["", 'connectors = "any"\n'])
async def test_who_has_left_the_table_renews_nothing(tmp_path: Path, table: Path, policy: str) -> None:
    async with opened(tmp_path / "engine", "crm", crm(table), policy) as (engine, der):
        with sqlite3.connect(table) as connection:
            connection.execute("UPDATE people SET team = 'guests'")
        assert not await renews(engine, der)
        with sqlite3.connect(table) as connection:
            connection.execute("UPDATE people SET team = 'staff'")
        assert await renews(engine, der)
        with sqlite3.connect(table) as connection:
            connection.execute("DELETE FROM people")
        assert not await renews(engine, der)
        with sqlite3.connect(table) as connection:
            connection.execute("DROP TABLE people")
        with pytest.raises(Unavailable, match="connector crm"):
            await renews(engine, der)


async def test_who_has_left_the_table_gets_nothing_by_a_certificate_either(tmp_path: Path, table: Path) -> None:
    async with opened(tmp_path / "engine", "crm", crm(table)) as (engine, der):
        await put(engine, "other", template_text("other", '[[evidence]]\nall = ["client_certificate"]\n'), "template")
        shown = ClientCertificateEvidence(der)
        assert isinstance(await engine.enroll(enrollment("other", shown)), IssuedCertificate)
        with sqlite3.connect(table) as connection:
            connection.execute("DELETE FROM people")
        with pytest.raises(Rejected, match="not entitled any more where they are kept"):
            await engine.enroll(enrollment("other", shown))
        with sqlite3.connect(table) as connection:
            connection.execute("DROP TABLE people")
        with pytest.raises(Unavailable, match="connector crm"):
            await engine.enroll(enrollment("other", shown))
        await put(engine, "crm", None)
        assert isinstance(await engine.enroll(enrollment("other", shown)), IssuedCertificate)


async def test_who_came_by_a_certificate_of_another_template_renews_though_no_rule_names_the_connector(
    tmp_path: Path, table: Path
) -> None:
    async with opened(tmp_path / "engine", "crm", crm(table)) as (engine, der):
        rule = '[[evidence]]\nall = ["client_certificate"]\ntemplates = ["people"]\n'
        await put(engine, "device", template_text("device", rule), "template")
        made = await engine.enroll(enrollment("device", ClientCertificateEvidence(der)))
        assert isinstance(made, IssuedCertificate)
        assert await renews(engine, made.der, "device")
        with sqlite3.connect(table) as connection:
            connection.execute("DELETE FROM people")
        assert not await renews(engine, made.der, "device"), "who has left renews nothing all the same"
        await put(engine, "crm", None)
        assert await renews(engine, made.der, "device")
        second = '[[evidence]]\nall = ["password", "client_certificate"]\n'
        await put(engine, "device", template_text("device", second), "template")
        assert not await renews(engine, made.der, "device"), "nobody is let in by a certificate alone now"


async def test_a_table_that_lacks_a_column_shuts_nobody_out_for_good(tmp_path: Path, table: Path) -> None:
    async with opened(tmp_path / "engine", "crm", crm(table)) as (engine, der):
        await put(engine, "crm", crm(table).replace('groups = "team"', 'groups = "teams"'))
        with pytest.raises(Unavailable, match="gives no column teams"):
            await renews(engine, der)


async def test_a_connector_that_a_template_names_no_more_renews_nothing(tmp_path: Path, portal: Webhook) -> None:
    async with opened(tmp_path, "portal", asks(portal)) as (engine, der):
        await put(engine, "people", people("portal", rule=INTERNAL), "template")
        request = enrollment("people", ClientCertificateEvidence(der), renewal_of=der)
        with pytest.raises(Rejected, match=r"connector portal.* does not count for template people any more"):
            await engine.enroll(request)
        await put(engine, "people", people("portal"), "template")
        assert await renews(engine, der)
        await put(engine, "portal", asks(portal).replace("[webhook]", "enabled = false\n[webhook]"))
        assert not await renews(engine, der)
        await put(engine, "portal", None)
        with pytest.raises(Unavailable, match="connector portal"):
            await renews(engine, der)


async def test_where_any_connector_will_do_the_certificate_alone_renews(tmp_path: Path, portal: Webhook) -> None:
    async with opened(tmp_path, "portal", asks(portal), 'connectors = "any"\n') as (engine, der):
        await put(engine, "people", people("portal", 'connectors = "any"\n', rule=INTERNAL), "template")
        assert await renews(engine, der)
        await put(engine, "portal", asks(portal).replace("[webhook]", "enabled = false\n[webhook]"))
        assert await renews(engine, der)
        await put(engine, "portal", None)
        assert await renews(engine, der)


@pytest.mark.parametrize(("kind", "evidence"), [("anonymous", ()), ("operator", (OperatorEvidence("root"),))])
async def test_who_was_shown_by_no_connector_needs_none(
    tmp_path: Path, kind: str, evidence: tuple[OperatorEvidence, ...]
) -> None:
    rule = f'[[evidence]]\nall = ["{kind}"]\n'
    async with engine_with(tmp_path, {"people": people("", rule=rule)}) as engine:
        made = await engine.enroll(enrollment("people", *evidence, protocol="cli"))
        assert isinstance(made, IssuedCertificate)
        await put(engine, "people", people("", rule=INTERNAL), "template")
        assert await renews(engine, made.der)
