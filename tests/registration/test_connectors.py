"""The gate with connectors: who vouches for whom under which rule, and that a connector in trouble is nobody else's."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry, generate_latest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from pkiserver.authority.requests import ClientCertificateEvidence, IssuedCertificate, PasswordEvidence
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration.approvals import Pending
from pkiserver.registration.connectors.values import Challenged
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.services.collectors import EngineMetrics
from pkiserver.store.authority import templates
from pkiserver.store.registration import guesses
from tests.support.engines import engine_with, enrollment, template_text
from tests.support.freeradius import PASSWORD as RADIUS_PASSWORD
from tests.support.freeradius import SECRET as RADIUS_SECRET
from tests.support.freeradius import FreeRadius
from tests.support.ports import free_port
from tests.support.slapd import SUFFIX, USER_PASSWORD, Slapd
from tests.support.tlsfiles import TestCa
from tests.support.webhook import SECRET as HOOK_SECRET
from tests.support.webhook import Webhook

reactor: Any = _reactor
HERE = "127.0.0.1"
ALICE = PasswordEvidence("alice", Secret(USER_PASSWORD))


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDAP_SERVICE", "service secret")
    monkeypatch.setenv("HOOK_SECRET", HOOK_SECRET)
    monkeypatch.setenv("RADIUS_SECRET", RADIUS_SECRET)


def ldap(url: str, name: str = "staff", more: str = "") -> str:
    return f"""
name = "{name}"
kind = "connector"
[ldap]
servers = ["{url}"]
insecure = true
answer_timeout = "2s"
base = "ou=people,{SUFFIX}"
service_name = "cn=pki,{SUFFIX}"
service_password = "env:LDAP_SERVICE"
{more}
[ldap.groups]
base = "ou=groups,{SUFFIX}"
nested = true
[[ldap.attributes]]
name = "mail"
from = "mail"
"""


def webhook(port: int) -> str:
    table = f'[webhook]\nurl = "http://127.0.0.1:{port}/"\nsecret = "env:HOOK_SECRET"\n'
    return f'name = "portal"\nkind = "connector"\n{table}'


def by(*connectors: str, more: str = "") -> str:
    named = ", ".join(f'"{one}"' for one in connectors)
    return f'[[evidence]]\nall = ["password"]\nconnectors = [{named}]\n{more}\n'


@asynccontextmanager
async def opened(folder: Path, evidence: dict[str, str], *connectors: str) -> AsyncIterator[Engine]:
    texts = {name: template_text(name, rules) for name, rules in evidence.items()}
    async with engine_with(folder, texts) as engine:
        await engine.accounts.create("alice", Secret("an internal password"), groups=frozenset({"local"}), by="tester")
        for text in connectors:
            name = text.partition('name = "')[2].partition('"')[0]
            await engine.database.write(
                lambda connection, n=name, t=text: templates.put(
                    connection, n, t, now=engine.clock.now(), expected=None, kind="connector"
                )
            )
        await engine.refresh()
        assert engine.connectors.problems() == ()
        yield engine


async def refused(engine: Engine, request: Any) -> set[Refusal]:
    with pytest.raises(Rejected) as caught:
        await engine.enroll(request)
    return {reason.code for reason in caught.value.reasons}


async def requester(engine: Engine, issued: object) -> str:
    from pkiserver.store import certificates

    assert isinstance(issued, IssuedCertificate)
    found = await engine.database.read(lambda connection: certificates.get(connection, issued.certificate_id))
    assert found is not None
    return found.requester


async def test_rules_say_who_vouches(tmp_path: Path, directory: Slapd) -> None:
    rules = {
        "internal": '[[evidence]]\nall = ["password"]\n',
        "ldap": by("staff"),
        "both": by("internal", "staff"),
        "engineers": by("staff", more='groups = ["engineers"]'),
        "managers": by("staff", more='groups = ["managers"]'),
        "second": by("internal", more='groups = ["nobody"]') + by("staff"),
    }
    internal = PasswordEvidence("alice", Secret("an internal password"))
    async with opened(tmp_path, rules, ldap(directory.url)) as engine:
        assert await requester(engine, await engine.enroll(enrollment("ldap", ALICE))) == "staff:alice"
        assert await requester(engine, await engine.enroll(enrollment("internal", internal))) == "alice"
        assert await refused(engine, enrollment("internal", ALICE)) == {Refusal.NOT_AUTHENTICATED}
        assert await refused(engine, enrollment("ldap", internal)) == {Refusal.NOT_AUTHENTICATED}
        assert await requester(engine, await engine.enroll(enrollment("both", ALICE))) == "staff:alice"
        assert await requester(engine, await engine.enroll(enrollment("both", internal))) == "alice"
        assert isinstance(await engine.enroll(enrollment("engineers", ALICE)), IssuedCertificate)
        assert Refusal.NOT_AUTHORISED in await refused(engine, enrollment("managers", ALICE))
        assert isinstance(await engine.enroll(enrollment("second", ALICE)), IssuedCertificate)
        # an unknown name and a wrong password look the same
        wrong = [PasswordEvidence("alice", Secret("wrong")), PasswordEvidence("nobody", Secret("wrong"))]
        texts = []
        for one in wrong:
            with pytest.raises(Rejected) as caught:
                await engine.enroll(enrollment("ldap", one))
            texts.append(str(caught.value))
        assert texts[0] == texts[1]


async def test_connectors_are_asked_in_the_order_of_the_rule(tmp_path: Path, directory: Slapd) -> None:
    rules = {"inward": by("internal", "staff"), "outward": by("staff", "internal")}
    both = PasswordEvidence("bob", ALICE.password)
    async with opened(tmp_path, rules, ldap(directory.url)) as engine:
        await engine.accounts.create("bob", both.password, by="tester")
        assert await requester(engine, await engine.enroll(enrollment("inward", both))) == "bob"
        assert await requester(engine, await engine.enroll(enrollment("outward", both))) == "staff:bob"


async def test_attributes_reach_the_certificate(tmp_path: Path, directory: Slapd) -> None:
    text = template_text("named", by("staff")).replace(
        'attribute = "common_name"\nfrom = "request"',
        'attribute = "common_name"\nfrom = "record"\nvalue = "{record.userid}"',
    )
    async with opened(tmp_path, {}, ldap(directory.url)) as engine:
        await engine.database.write(lambda c: templates.put(c, "named", text, now=engine.clock.now(), expected=None))
        await engine.refresh()
        assert engine.templates.problems() == ()
        issued = await engine.enroll(enrollment("named", ALICE, name="alice"))
        assert isinstance(issued, IssuedCertificate)
        assert x509.load_der_x509_certificate(issued.der).subject.rfc4514_string() == "CN=alice"
        assert issued.notes == ("the password expires in 9 days",)


async def test_the_plain_name_is_known_wherever_somebody_is_kept(tmp_path: Path, directory: Slapd) -> None:
    def named(name: str, rules: str) -> str:
        wish, fixed = (
            'attribute = "common_name"\nfrom = "request"',
            '"common_name"\nfrom = "record"\nvalue = "{record.userid}"',
        )
        return template_text(name, rules).replace(wish, f"attribute = {fixed}")

    internal = PasswordEvidence("alice", Secret("an internal password"))
    both = '[[evidence]]\nall = ["password", "client_certificate"]\n'
    async with opened(tmp_path, {}, ldap(directory.url)) as engine:
        for name, rules in (("any", by("internal", "staff")), ("both", both)):
            text = named(name, rules)
            await engine.database.write(
                lambda c, n=name, t=text: templates.put(c, n, t, now=engine.clock.now(), expected=None)
            )
        await engine.refresh()
        assert engine.templates.problems() == ()
        for evidence, who in ((internal, "alice"), (ALICE, "staff:alice")):
            issued = await engine.enroll(enrollment("any", evidence, name="alice"))
            assert isinstance(issued, IssuedCertificate)
            assert x509.load_der_x509_certificate(issued.der).subject.rfc4514_string() == "CN=alice"
            assert await requester(engine, issued) == who
        first = await engine.enroll(enrollment("any", internal, name="alice"))
        assert isinstance(first, IssuedCertificate)
        twice = await engine.enroll(enrollment("both", internal, ClientCertificateEvidence(first.der), name="alice"))
        assert isinstance(twice, IssuedCertificate)  # shown twice, one name
        assert x509.load_der_x509_certificate(twice.der).subject.rfc4514_string() == "CN=alice"


async def test_what_connectors_answer_is_counted(tmp_path: Path, directory: Slapd) -> None:
    dead = ldap(f"ldap://127.0.0.1:{free_port()}", "dead")
    rules = {"staff": by("staff"), "dead": by("dead")}
    async with opened(tmp_path, rules, ldap(directory.url), dead) as engine:
        await engine.enroll(enrollment("staff", ALICE))
        await refused(engine, enrollment("staff", PasswordEvidence("alice", Secret("wrong"))))
        await refused(engine, enrollment("staff", PasswordEvidence("nobody", Secret("wrong"))))
        with pytest.raises(Unavailable):
            await engine.enroll(enrollment("dead", ALICE))
        expected = {("staff", "shown"): 1, ("staff", "password refused"): 1, ("staff", "user not found"): 1}
        assert engine.connectors.answers() == {**expected, ("dead", "unavailable"): 1}
        assert engine.connectors.busy() == {"dead": 0, "staff": 0}
        registry = CollectorRegistry()
        registry.register(EngineMetrics(engine))
        shown = generate_latest(registry).decode()
        assert 'pkiserver_connector_answers_total{answer="unavailable",connector="dead"} 1.0' in shown
        assert 'pkiserver_connector_busy{connector="staff"} 0.0' in shown
        with pytest.raises(Rejected, match=r"named 'stuff' \(there are: dead, staff\)"):
            engine.connectors.get("stuff")


async def test_a_name_is_one_however_it_is_typed(tmp_path: Path, directory: Slapd) -> None:
    async with opened(tmp_path, {"ldap": by("staff")}, ldap(directory.url)) as engine:
        for name in ("alice", "ALICE", "\uff41lice"):
            issued = await engine.enroll(enrollment("ldap", PasswordEvidence(name, Secret(USER_PASSWORD))))
            assert await requester(engine, issued) == "staff:alice"


async def test_a_connector_that_is_away_is_no_refusal(tmp_path: Path, directory: Slapd) -> None:
    dead = ldap(f"ldap://127.0.0.1:{free_port()}", "dead")
    rules = {"dead": by("dead"), "spare": by("dead", "staff"), "unknown": by("never-made")}
    async with opened(tmp_path, rules, dead, ldap(directory.url)) as engine:
        for name in ("dead", "unknown"):
            with pytest.raises(Unavailable):
                await engine.enroll(enrollment(name, ALICE))
        assert await requester(engine, await engine.enroll(enrollment("spare", ALICE))) == "staff:alice"
        with pytest.raises(Unavailable):
            await engine.enroll(enrollment("spare", PasswordEvidence("alice", Secret("wrong"))))


async def test_whoever_lacks_a_group_is_told_so_and_has_guessed_nothing(tmp_path: Path, directory: Slapd) -> None:
    strict = f'[ldap.groups]\nbase = "ou=groups,{SUFFIX}"\nrequired = ["cn=nobody,ou=groups,{SUFFIX}"]\n'
    text = ldap(directory.url).replace(f'[ldap.groups]\nbase = "ou=groups,{SUFFIX}"\nnested = true\n', strict)
    bob = PasswordEvidence("bob", Secret(USER_PASSWORD))
    async with opened(tmp_path, {"both": by("internal", "staff")}, text) as engine:
        for _ in range(8):
            with pytest.raises(Rejected) as caught:
                await engine.enroll(enrollment("both", bob))
            assert "the user is in none of the groups that may have this" in str(caught.value)
            assert "the password is wrong" not in str(caught.value)


async def test_row_20_who_comes_again_while_a_connector_is_away_has_guessed_nothing(tmp_path: Path) -> None:
    rules = {"both": by("internal", "dead"), "own": by("internal")}
    own = PasswordEvidence("alice", Secret("an internal password"))
    async with opened(tmp_path, rules, ldap(f"ldap://127.0.0.1:{free_port()}", "dead")) as engine:
        for _ in range(12):
            with pytest.raises(Unavailable, match="connector dead"):
                await engine.enroll(enrollment("both", PasswordEvidence("walt", Secret(USER_PASSWORD))))
        await engine.gate.guesses.flush()
        marks = await engine.database.read(lambda connection: guesses.look(connection, address=HERE, template="both"))
        assert marks == {}, "nor has anybody been right, who would be listened to before others"
        assert await requester(engine, await engine.enroll(enrollment("own", own))) == "alice"
        # whoever is known here is guessed at here, whatever is away
        for _ in range(6):
            with pytest.raises(Unavailable, match="connector dead"):
                await engine.enroll(enrollment("both", ALICE))
        with pytest.raises(Unavailable, match="too many wrong guesses"):
            await engine.enroll(enrollment("both", ALICE))


async def test_row_34_a_connector_that_never_answers_blocks_nobody_else(tmp_path: Path, directory: Slapd) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as mute:
        silent = ldap(f"ldap://127.0.0.1:{mute.getsockname()[1]}", "mute").replace("[ldap]", "at_once = 20\n[ldap]", 1)
        silent = silent.replace('answer_timeout = "2s"', 'answer_timeout = "60s"')  # it is the test that lets go
        rules = {"mute": by("mute"), "quick": by("staff")}
        async with opened(tmp_path, rules, silent, ldap(directory.url)) as engine:
            waiting = [Deferred.fromCoroutine(engine.enroll(enrollment("mute", ALICE))) for _ in range(40)]
            failures: list[Any] = []
            for one in waiting:
                one.addErrback(failures.append)
            # While twenty are held the reactor comes round as often as it is asked to, and serves somebody else.
            await _turns(200)
            for _ in range(3):
                assert isinstance(await engine.enroll(enrollment("quick", ALICE)), IssuedCertificate)
            assert sum(not one.called for one in waiting) == 20
            assert len(failures) == 20  # beyond the bulkhead they are turned away at once
            mute.close()  # its connections are reset
            for one in waiting:
                await one
            assert len(failures) == 40
            assert all(failure.check(Unavailable) for failure in failures)


async def _turns(number: int) -> None:
    """Let the reactor come round so often."""
    for _ in range(number):
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn


async def test_a_service_that_decides_later(tmp_path: Path) -> None:
    decision = {"decision": "pending", "retry_after": 9}
    server = Webhook(lambda _: decision)
    try:
        async with opened(tmp_path, {"portal": by("portal")}, webhook(server.port)) as engine:
            request = enrollment("portal", ALICE)
            first = await engine.enroll(request)
            assert isinstance(first, Pending)
            assert first.retry_after == 9
            again = await engine.enroll(request)
            assert isinstance(again, Pending)
            assert again.request_number == first.request_number
            decision["decision"] = "yes"
            assert await requester(engine, await engine.enroll(request)) == "portal:alice"
            settled = await engine.approvals.get(first.request_number)
            assert str(settled.state) == "issued"
            decision["decision"] = "no"
            assert await refused(engine, request) == {Refusal.NOT_AUTHENTICATED}
    finally:
        server.close()


async def test_a_challenge_reaches_who_can_show_it(tmp_path: Path) -> None:
    server = FreeRadius()
    table = f'[radius]\nservers = ["127.0.0.1:{server.port}"]\nsecret = "env:RADIUS_SECRET"\n'
    text = f'name = "otp"\nkind = "connector"\n{table}'
    try:
        async with opened(tmp_path, {"otp": by("otp")}, text) as engine:
            with pytest.raises(Challenged) as caught:
                await engine.enroll(enrollment("otp", PasswordEvidence("token", Secret(RADIUS_PASSWORD))))
            (challenge,) = caught.value.challenges
            assert challenge.prompt == "Enter the code on your token"
            answer = PasswordEvidence("token", Secret("123456"), challenge.token)
            assert await requester(engine, await engine.enroll(enrollment("otp", answer))) == "otp:token"
    finally:
        server.discard()


async def test_a_factory_certificate_and_a_password_together(tmp_path: Path, directory: Slapd) -> None:
    ca = TestCa(tmp_path, "Maker CA")
    (tmp_path / "crl.pem").write_bytes(ca.crl())
    factory = f"""
name = "factory"
kind = "connector"
[certificate]
anchors = '''{ca.pem}'''
name = "subject.common_name"
crls = ["file:{tmp_path}/crl.pem"]
"""
    both = '[[evidence]]\nall = ["client_certificate", "password"]\nconnectors = ["factory", "staff"]\n'
    alone = '[[evidence]]\nall = ["client_certificate"]\nconnectors = ["factory"]\n'
    own = '[[evidence]]\nall = ["client_certificate"]\n'
    file, _ = ca.issue("router-7")
    shown = ClientCertificateEvidence(x509.load_pem_x509_certificate(file.read_bytes()).public_bytes(Encoding.DER))
    rules = {"both": both, "alone": alone, "own": own}
    async with opened(tmp_path, rules, factory, ldap(directory.url)) as engine:
        assert await requester(engine, await engine.enroll(enrollment("alone", shown))) == "factory:router-7"
        assert await requester(engine, await engine.enroll(enrollment("both", shown, ALICE))) == "factory:router-7"
        assert await refused(engine, enrollment("both", shown)) == {Refusal.NOT_AUTHENTICATED}
        assert await refused(engine, enrollment("both", ALICE)) == {Refusal.NOT_AUTHENTICATED}
        assert await refused(engine, enrollment("own", shown)) == {Refusal.NOT_AUTHENTICATED}
        issued = await engine.enroll(enrollment("alone", shown))
        assert isinstance(issued, IssuedCertificate)
        assert await refused(engine, enrollment("alone", ClientCertificateEvidence(issued.der))) == {
            Refusal.NOT_AUTHENTICATED
        }


async def test_who_has_left_the_directory_renews_nothing(tmp_path: Path, directory: Slapd) -> None:
    dn = f"uid=dave,ou=people,{SUFFIX}"
    directory.load(f"dn: {dn}\nobjectClass: inetOrgPerson\nuid: dave\ncn: Dave\nsn: D\nuserPassword: {USER_PASSWORD}\n")
    async with opened(tmp_path, {"ldap": by("staff")}, ldap(directory.url)) as engine:
        dave = PasswordEvidence("dave", Secret(USER_PASSWORD))
        first = await engine.enroll(enrollment("ldap", dave))
        assert isinstance(first, IssuedCertificate)
        shown = ClientCertificateEvidence(first.der)
        assert isinstance(await engine.enroll(enrollment("ldap", shown, renewal_of=first.der)), IssuedCertificate)
        directory.load(f"dn: {dn}\nchangetype: delete\n")
        assert await refused(engine, enrollment("ldap", shown, renewal_of=first.der)) == {Refusal.NOT_AUTHORISED}


async def test_anonymous_where_a_template_says_so(tmp_path: Path) -> None:
    rules = {"open": '[[evidence]]\nall = ["anonymous"]\n', "closed": '[[evidence]]\nall = ["password"]\n'}
    async with opened(tmp_path, rules) as engine:
        assert await requester(engine, await engine.enroll(enrollment("open"))) == "anonymous"
        assert await refused(engine, enrollment("closed")) == {Refusal.NOT_AUTHENTICATED}


def test_names_that_requesters_of_other_kinds_have_are_no_connectors() -> None:
    from pkiserver.foundation.tomlfile import ConfigurationError
    from pkiserver.registration.connectors.settings import load_connector

    for name in ("internal", "enroll-code", "operator", "self-signed", "Challenge", "a:b", ""):
        with pytest.raises(ConfigurationError):
            load_connector(ldap("ldap://127.0.0.1", name), "x.toml")
    with pytest.raises(ConfigurationError, match="exactly one"):
        load_connector('name = "x"\nkind = "connector"\n', "x.toml")
