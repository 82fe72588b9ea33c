"""One-time passwords by mail, through a real mail server and the whole gate."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, gatherResults

from pkiserver.authority.recover import LEASE
from pkiserver.authority.requests import Authorised, IssuedCertificate, PasswordEvidence
from pkiserver.authority.status.turns import Turns
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.registration.connectors.mail import MailConnector
from pkiserver.registration.connectors.settings import load_connector
from pkiserver.registration.connectors.values import Challenged, Step
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.runtime.services.upkeep import clean
from pkiserver.store.authority import templates
from tests.support.clock import FakeClock
from tests.support.engines import engine_with, enrollment, template_text
from tests.support.mailserver import PASSWORD, USER, MailServer
from tests.support.ports import free_port
from tests.support.tlsfiles import TestCa

RULE = '[[evidence]]\nall = ["password"]\nconnectors = ["internal", "post"]\ngroups = ["staff"]\n'


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", PASSWORD)


def settings(server: str, more: str = "") -> str:
    return f'name = "post"\nkind = "connector"\n[mail]\nservers = ["{server}"]\nsender = "pki@example.org"\n{more}\n'


@contextmanager
def mail_server(**how: object) -> Iterator[MailServer]:
    server = MailServer(**how)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.close()


@asynccontextmanager
async def opened(folder: Path, text: str, clock: FakeClock | None = None) -> AsyncIterator[Engine]:
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240 - a test's own folder
    async with engine_with(folder, {"person": template_text("person", RULE)}, clock=clock) as engine:
        mail = (("mail", "alice@example.org"),)
        await engine.accounts.create("alice", None, groups=frozenset({"staff"}), attributes=mail, by="tester")
        await engine.accounts.create("bob", None, groups=frozenset({"staff"}), by="tester")
        await engine.database.write(
            lambda connection: templates.put(
                connection, "post", text, now=engine.clock.now(), expected=None, kind="connector"
            )
        )
        await engine.refresh()
        assert engine.connectors.problems() == ()
        yield engine


def connector(engine: Engine) -> MailConnector:
    backend = engine.connectors.get("post").backend
    assert isinstance(backend, MailConnector)
    return backend


async def outcomes_of(engine: Engine) -> list[str]:
    """What the audit log says of the mails to Alice, in order."""
    query = "SELECT outcome FROM audit_event WHERE object = 'one-time password of alice' ORDER BY writer_id, seq"
    return list(await engine.database.read(lambda connection: connection.exec_driver_sql(query).scalars().all()))


async def ask(engine: Engine, name: str = "alice") -> str:
    """Ask for a password; what the client is told."""
    with pytest.raises(Challenged) as caught:
        await engine.enroll(enrollment("person", PasswordEvidence(name, Secret(""))))
    await connector(engine).settled()
    return str(caught.value)


async def enrol(engine: Engine, password: str, name: str = "alice") -> object:
    return await engine.enroll(enrollment("person", PasswordEvidence(name, Secret(password))))


async def refused(engine: Engine, password: str, name: str = "alice") -> str:
    with pytest.raises(Rejected) as caught:
        await enrol(engine, password, name)
    assert {reason.code for reason in caught.value.reasons} == {Refusal.NOT_AUTHENTICATED}
    return str(caught.value)


def password_in(server: MailServer) -> str:
    return server.mails[-1].get_content().splitlines()[0]


async def test_a_password_comes_by_mail_and_is_good_for_one_certificate(tmp_path: Path) -> None:
    with mail_server() as server:
        async with opened(tmp_path, settings(f"smtp://127.0.0.1:{server.port}")) as engine:
            told = await ask(engine)
            assert "one-time password is sent by mail" in told
            (mail,) = server.mails
            assert (mail["To"], mail["From"]) == ("alice@example.org", "pki@example.org")
            assert mail["Auto-Submitted"] == "auto-generated"
            assert server.envelopes[0].rcpt_tos == ["alice@example.org"]
            password = password_in(server)
            issued = await enrol(engine, password.lower().replace("-", " "))
            assert isinstance(issued, IssuedCertificate)
            await refused(engine, password)
            octets = (tmp_path / "db").read_bytes() + (tmp_path / "db-wal").read_bytes()
            assert password.replace("-", "").encode() not in octets


async def test_who_is_no_account_or_has_no_address_is_told_the_same(tmp_path: Path) -> None:
    with mail_server() as server:
        async with opened(tmp_path, settings(f"smtp://127.0.0.1:{server.port}")) as engine:
            texts = {await ask(engine, name) for name in ("alice", "bob", "nobody", "no\r\nRCPT TO:<x@y>")}
            assert len(texts) == 1
            assert [mail["To"] for mail in server.mails] == ["alice@example.org"]
            password = password_in(server)
            await engine.accounts.set_disabled("alice", True, by="tester")
            await refused(engine, password)


async def test_anchor_3_fifty_parallel_uses_of_one_password_bring_one_certificate(tmp_path: Path) -> None:
    with mail_server() as server:
        text = settings(f"smtp://127.0.0.1:{server.port}").replace(
            'kind = "connector"', 'kind = "connector"\nat_once=64'
        )
        async with opened(tmp_path, text) as engine:
            await ask(engine)
            password = password_in(server)

            async def one() -> bool:
                try:
                    return isinstance(await enrol(engine, password), IssuedCertificate)
                except (Rejected, Unavailable):
                    return False

            outcomes = await gatherResults([Deferred.fromCoroutine(one()) for _ in range(50)])
            assert outcomes.count(True) == 1


async def test_it_can_be_used_again_where_the_process_died_over_its_certificate(tmp_path: Path) -> None:
    clock = FakeClock()
    with mail_server() as server:
        async with opened(tmp_path, settings(f"smtp://127.0.0.1:{server.port}"), clock) as engine:
            await ask(engine)
            request = enrollment("person", PasswordEvidence("alice", Secret(password_in(server))))
            decision = await engine.gate.decide(request)
            assert isinstance(decision, Authorised)
            await engine.road.prepare(decision)
            await refused(engine, password_in(server))
            clock.advance(LEASE + timedelta(seconds=1))  # it has given no sign of life since
            async with open_engine(engine.settings, clock=clock) as other:
                assert isinstance(await enrol(other, password_in(server)), IssuedCertificate)


async def test_guesses_void_it_time_ends_it_and_only_so_many_are_sent(tmp_path: Path) -> None:
    clock = FakeClock()
    with mail_server() as server:
        text = settings(f"smtp://127.0.0.1:{server.port}", "per_hour = 3")
        async with opened(tmp_path, text, clock) as engine:
            await ask(engine)
            voided = password_in(server)
            for _ in range(5):
                await refused(engine, "AAAAA-AAAAA")
                clock.advance(timedelta(seconds=61))
            await refused(engine, voided)
            clock.advance(timedelta(minutes=2))
            await ask(engine)
            late = password_in(server)
            clock.advance(timedelta(minutes=11))
            await refused(engine, late)
            await ask(engine)
            clock.advance(timedelta(minutes=1))
            await ask(engine)
            assert len(server.mails) == 3  # the fourth within an hour was not sent
            clock.advance(timedelta(hours=2, minutes=15))
            await clean(engine, Turns(engine.database, clock, "tester"))
            count = "SELECT count(*) FROM one_time_password"
            assert await engine.database.read(lambda c: c.exec_driver_sql(count).scalar_one()) == 0
            await ask(engine)
            assert isinstance(await enrol(engine, password_in(server)), IssuedCertificate)


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")  # aiosmtpd means STARTTLS
@pytest.mark.parametrize("from_the_start", [False, True])
async def test_tls_with_our_own_trust_and_a_login(tmp_path: Path, from_the_start: bool) -> None:
    ca = TestCa(tmp_path, "Mail CA")
    other = TestCa(tmp_path, "Other CA")
    scheme = "smtps" if from_the_start else "smtp"
    login = f'user = "{USER}"\npassword = "env:MAIL_PASSWORD"\n'
    with mail_server(tls=ca.issue("mail", hosts=("127.0.0.1",)), from_the_start=from_the_start) as server:
        url = f"{scheme}://127.0.0.1:{server.port}"
        trusting = f"{login}[mail.tls]\ntrust = '''{ca.pem}'''"
        async with opened(tmp_path / "a", settings(url, trusting)) as engine:
            await ask(engine)
            assert isinstance(await enrol(engine, password_in(server)), IssuedCertificate)
            found = await engine.connectors.check("post", "bob", None)
            assert [one.step for one in found] == [Step.FINE, Step.ATTRIBUTE]
        distrusting = f"{login}[mail.tls]\ntrust = '''{other.pem}'''"
        async with opened(tmp_path / "b", settings(url, distrusting)) as engine:
            await ask(engine)
            (found_tls,) = await engine.connectors.check("post", None, None)
            assert found_tls.step is Step.TLS
            assert "Mail CA" in found_tls.text
            await refused(engine, password_in(server))
        assert server.secured == [True]


async def test_what_a_check_tells_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = TestCa(tmp_path, "Mail CA")
    more = f"user = \"{USER}\"\npassword = \"env:MAIL_PASSWORD\"\n[mail.tls]\ntrust = '''{ca.pem}'''"
    with mail_server(tls=ca.issue("mail", hosts=("127.0.0.1",))) as server, mail_server() as plain:
        urls = f'smtp://127.0.0.1:{server.port}", "smtp://127.0.0.1:{plain.port}", "smtp://127.0.0.1:{free_port()}'
        async with opened(tmp_path, settings(urls, more)) as engine:
            right, without_tls, closed = await engine.connectors.check("post", None, None)
            assert right.step is Step.FINE
            assert without_tls.step is Step.TLS  # never a login, never a mail in the clear
            assert closed.step is Step.CONNECT
            monkeypatch.setenv("MAIL_PASSWORD", "not it")
            wrong = (await engine.connectors.check("post", None, None))[0]
            assert wrong.step is Step.BIND
            monkeypatch.delenv("MAIL_PASSWORD")
            assert (await engine.connectors.check("post", None, None))[0].step is Step.SETTINGS
        assert plain.mails == []


async def test_several_servers_in_their_order(tmp_path: Path) -> None:
    with mail_server() as second:
        first = MailServer()
        urls = f'smtp://127.0.0.1:{free_port()}", "smtp://127.0.0.1:{first.port}", "smtp://127.0.0.1:{second.port}'
        async with opened(tmp_path, settings(urls)) as engine:
            try:
                await ask(engine)
                assert (len(first.mails), len(second.mails)) == (1, 0)
            finally:
                first.close()
            await ask(engine)
            assert (len(first.mails), len(second.mails)) == (1, 1)


async def test_a_refused_mail_is_audited_and_hurts_nobody(tmp_path: Path) -> None:
    with mail_server() as server:
        server.refuse = "550 no such mailbox"
        async with opened(tmp_path, settings(f"smtp://127.0.0.1:{server.port}")) as engine:
            await ask(engine)
            assert await outcomes_of(engine) == ["refused"]
            server.refuse = None
            await ask(engine)
            assert await outcomes_of(engine) == ["refused", "ok"]
            assert isinstance(await enrol(engine, password_in(server)), IssuedCertificate)


@pytest.mark.parametrize(
    ("answers", "step"),
    [
        (b"220 hello\r\n250-mail\r\n250 STARTTLS\r\n220 go\r\n250-mail\r\n250 AUTH PLAIN\r\n235 in\r\n", Step.TLS),
        (b"220 hello\r\n" + b"250-more\r\n" * 1000, Step.ANSWER),
        (b"220 " + b"x" * 100_000, Step.ANSWER),
        (b"not a mail server\r\n", Step.ANSWER),
        (b"", Step.SILENT),
    ],
)
async def test_hostile_servers_end_within_bounds(tmp_path: Path, answers: bytes, step: Step) -> None:
    """The first has answers before the handshake that claim to be from after it."""
    ca = TestCa(tmp_path, "Mail CA")
    with talking(lambda peer: peer.sendall(answers)) as port:
        more = f"answer_timeout = \"500ms\"\n[mail.tls]\ntrust = '''{ca.pem}'''"
        async with opened(tmp_path, settings(f"smtp://127.0.0.1:{port}", more)) as engine:
            (found,) = await engine.connectors.check("post", None, None)
            assert found.step in {step, Step.SILENT} if step is Step.TLS else found.step is step


@contextmanager
def talking(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that says what it likes and then says nothing more."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peers: list[socket.socket] = []

        def serve() -> None:
            try:
                peer, _ = listener.accept()
                peers.append(peer)
                talk(peer)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
    thread.join(5)
    for peer in peers:
        peer.close()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (settings("smtp://mail.example.org"), r"needs \[mail.tls\]"),
        (settings("smtps://127.0.0.1"), r"needs \[mail.tls\]"),
        (settings("http://127.0.0.1"), "names no mail server"),
        (settings("smtp://127.0.0.1", 'user = "x"'), "user and password go together"),
        (settings("smtp://127.0.0.1", 'lifetime = "10s"'), "out of range"),
        (settings("smtp://127.0.0.1", 'text = "hello"'), "does not say"),
        (settings("smtp://127.0.0.1", 'text = "$(password) $(secret)"'), "has no value"),
        (settings("smtp://127.0.0.1").replace("pki@example.org", "pki"), "is no mail address"),
    ],
)
def test_settings_that_will_not_do(text: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load_connector(text, "post.toml")
