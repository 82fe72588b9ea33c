"""The webhook connector against a web service: signed both ways, mutual TLS, time-outs, what a check tells apart."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.registration.connectors.settings import load_connector
from pkiserver.registration.connectors.values import Denied, Shown, Step, Undecided
from pkiserver.registration.connectors.webhook import WebhookConnector
from tests.support.ports import free_port
from tests.support.tlsfiles import TestCa
from tests.support.webhook import SECRET, Webhook

RIGHT = Secret("pässword")


@pytest.fixture(autouse=True)
def shared_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)


def made(url: str, tables: str = "", more: str = "") -> WebhookConnector:
    text = f"""
name = "portal"
kind = "connector"
[webhook]
url = "{url}"
secret = "env:HOOK_SECRET"
answer_timeout = "1s"
{more}
[[webhook.attributes]]
name = "mail"
from = "email"
required = true
{tables}
"""
    settings = load_connector(text, "portal.toml").webhook
    assert settings is not None
    return WebhookConnector("portal", settings, SystemClock())


def decide(question: dict[str, Any]) -> dict[str, Any]:
    if question["password"] != "pässword":
        return {"decision": "no", "reason": "wrong"}
    decision = "pending" if question["name"] == "later" else "yes"
    mail: object = ["a@example.org", "b@example.org"] if question["name"] == "alice" else "x@example.org"
    attributes = {} if question["name"] == "bare" else {"email": mail}
    return {"decision": decision, "groups": ["staff"], "attributes": attributes, "retry_after": 7}


@contextmanager
def serving(**more: Any) -> Iterator[Webhook]:
    server = Webhook(more.pop("decide", decide), **more)
    yield server
    server.close()


async def test_yes_no_and_pending() -> None:
    with serving() as server:
        connector = made(f"http://127.0.0.1:{server.port}/hook")
        shown = await connector.authenticate("alice", RIGHT)
        assert shown == Shown("alice", frozenset({"staff"}), (("mail", "a@example.org"), ("mail", "b@example.org")))
        assert isinstance(await connector.authenticate("alice", Secret("wrong")), Denied)
        later = await connector.authenticate("later", RIGHT)
        assert isinstance(later, Undecided)
        assert later.retry_after == 7
        bare = await connector.authenticate("bare", RIGHT)
        assert isinstance(bare, Denied)
        assert bare.step is Step.ATTRIBUTE
        asked = len(server.questions)
        assert isinstance(await connector.authenticate("alice", Secret("")), Denied)
        assert len(server.questions) == asked
        outside = await made(f"http://127.0.0.1:{server.port}/", more='required_groups = ["x"]').authenticate(
            "alice", RIGHT
        )
        assert isinstance(outside, Denied)
        assert outside.step is Step.GROUP


async def test_mutual_tls_with_own_anchors(tmp_path: Path) -> None:
    ca, other = TestCa(tmp_path), TestCa(tmp_path, "Another CA")
    certificate, key = ca.issue("pkiserver")
    shows = f'certificate = "{certificate}"\nkey = "{key}"\n'
    with serving(tls=ca.issue("hook", hosts=("localhost",)), clients=ca.file) as server:

        async def step(host: str, trust: TestCa, identity: str) -> tuple[Step, str]:
            tables = f"[webhook.tls]\ntrust = '''{trust.pem}'''\n{identity}"
            (found,) = await made(f"https://{host}:{server.port}/", tables).check("alice", RIGHT)
            return found.step, found.text

        assert (await step("localhost", ca, shows))[0] is Step.FINE
        untrusted, why = await step("localhost", other, shows)
        assert untrusted is Step.TLS
        assert "issued by 'CN=Test CA', which is not among the trust anchors" in why
        misnamed, why = await step("127.0.0.1", ca, shows)
        assert misnamed is Step.TLS
        assert why == "the certificate is for localhost, not for 127.0.0.1 (issued by 'CN=Test CA')"
        assert (await step("localhost", ca, ""))[0] is not Step.FINE
        absent = f'certificate = "{certificate}"\nkey = "{tmp_path}/absent"\n'
        unreadable, why = await step("localhost", ca, absent)
        assert unreadable is Step.SETTINGS
        assert why.endswith(f"cannot be used: {tmp_path}/absent: No such file or directory")
        mixed = f'certificate = "file:{certificate}"\nkey = "file:{other.issue("other")[1]}"\n'
        unfit, why = await step("localhost", ca, mixed)
        assert unfit is Step.SETTINGS
        assert "mismatch" in why


@pytest.mark.parametrize(
    "spoil",
    [
        lambda status, body, signature: (500, body, signature),
        lambda status, body, signature: (302, body, signature),
        lambda status, body, signature: (status, body, ""),
        lambda status, body, signature: (status, body, signature[:-1] + "x"),
        lambda status, body, signature: (status, body.replace(b"no", b"yes"), signature),
        lambda status, body, signature: (status, b"x" * 70000, signature),
    ],
)
async def test_an_answer_that_is_not_its_own_is_no_answer(
    spoil: Callable[[int, bytes, str], tuple[int, bytes, str]],
) -> None:
    with serving(spoil=spoil) as server:
        url = f"http://127.0.0.1:{server.port}/"
        with pytest.raises(Unavailable):
            await made(url).authenticate("alice", Secret("wrong"))
        assert (await made(url).check(None, None))[0].step is Step.ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {"decision": True},
        {"decision": "maybe"},
        {"decision": "yes", "groups": "staff"},
        {"decision": "yes", "attributes": {"email": 7}},
        {"decision": "yes", "attributes": []},
        {"decision": "pending", "retry_after": -1},
        {"decision": "pending", "retry_after": True},
    ],
)
async def test_an_answer_that_makes_no_sense(answer: Any) -> None:
    with serving(decide=lambda _: answer) as server, pytest.raises(Unavailable, match="makes no sense"):
        await made(f"http://127.0.0.1:{server.port}/").authenticate("alice", RIGHT)


async def test_what_a_check_tells_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def step(url: str) -> Step:
        return (await made(url).check(None, None))[0].step

    assert await step(f"http://127.0.0.1:{free_port()}/") is Step.CONNECT
    with socket.create_server(("127.0.0.1", 0)) as mute:
        [silent] = await made(f"http://127.0.0.1:{mute.getsockname()[1]}/").check(None, None)
        assert (silent.step, silent.text) == (Step.SILENT, "no answer within 0:00:01")  # as its settings say
    with serving() as server:
        url = f"http://127.0.0.1:{server.port}/"
        assert await step(url) is Step.FINE
        assert (await made(url).check("alice", Secret("wrong")))[0].step is Step.PASSWORD
        monkeypatch.delenv("HOOK_SECRET")
        assert await step(url) is Step.SETTINGS
    tables = "[webhook.tls]\ntrust = 'file:/absent.pem'\n"
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    (found,) = await made("https://no.such.host.invalid/", tables).check(None, None)
    assert found.step is Step.SETTINGS


def test_settings_that_cannot_be_meant() -> None:
    for url, tables, what in (
        ("http://elsewhere.example/", "", "in the clear"),
        ("https://elsewhere.example/", "", "goes with https"),
        ("ftp://elsewhere.example/", "", "no URL of a web service"),
        ("https://h/", "[webhook.tls]\ntrust = 'none'", "no certificate"),
    ):
        with pytest.raises(ConfigurationError, match=what):
            made(url, tables)
