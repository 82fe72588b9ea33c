"""EST with connectors that have something to say: RADIUS challenges, one-time passwords by mail, passwords that end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred

from pkiserver.registration.connectors.mail import MailConnector
from pkiserver.store.authority import templates
from tests.protocols.est.world import World, text
from tests.support.freeradius import PASSWORD as RADIUS_PASSWORD
from tests.support.freeradius import SECRET as RADIUS_SECRET
from tests.support.freeradius import FreeRadius
from tests.support.mailserver import MailServer
from tests.support.slapd import SUFFIX, USER_PASSWORD, Slapd


def rule(connector: str) -> str:
    return f'[[evidence]]\nall = ["password"]\nconnectors = ["{connector}"]\n'


@pytest.fixture
def mails() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.close()


@pytest.fixture
def radius(monkeypatch: pytest.MonkeyPatch) -> Iterator[FreeRadius]:
    monkeypatch.setenv("RADIUS_SECRET", RADIUS_SECRET)
    server = FreeRadius()
    yield server
    server.discard()


def put(world: World, connector: str, table: str) -> None:
    """A connector, and a template of the same name with a rule that names it."""
    engine = world.engine
    texts = (
        ("template", text(connector, rule(connector))),
        ("connector", f'kind = "connector"\nname = "{connector}"\n{table}'),
    )

    async def store() -> None:
        for kind, toml in texts:
            await engine.database.write(
                lambda connection, k=kind, t=toml: templates.put(
                    connection, connector, t, now=engine.clock.now(), expected=None, kind=k
                )
            )
        await engine.refresh()
        assert engine.connectors.problems() == ()

    world.run(store)


def test_a_radius_challenge_is_told_and_not_taken_for_a_wrong_password(world: World, radius: FreeRadius) -> None:
    table = f'[radius]\nservers = ["127.0.0.1:{radius.port}"]\nsecret = "env:RADIUS_SECRET"\n'
    put(world, "token", table)
    site = world.site
    request = site.request("token-1")
    for _ in range(8):  # not one of them is a wrong guess, which would be answered 503
        body = site.post("token/simpleenroll", request, "-u", f"token:{RADIUS_PASSWORD}", status=401)
    answer = body.decode()
    assert 'connector token asks for more than a password ("Enter the code on your token")' in answer
    assert "this protocol can neither show nor answer" in answer
    site.certificate(site.post("token/simpleenroll", request, "-u", f"User:{RADIUS_PASSWORD}"), "token-1")


def test_a_directory_vouches_and_has_a_word_about_the_password(
    world: World, slapd: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDAP_SERVICE", "service secret")
    slapd.load(  # set just now, so that the policy warns of its end
        f"dn: uid=frank,ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: frank\ncn: Frank\nsn: F\n"
        f"userPassword: {USER_PASSWORD}\n"
    )
    table = (
        f'[ldap]\nservers = ["{slapd.url}"]\ninsecure = true\nbase = "ou=people,{SUFFIX}"\n'
        f'service_name = "cn=pki,{SUFFIX}"\nservice_password = "env:LDAP_SERVICE"\n'
    )
    put(world, "staff", table)
    site = world.site
    request = site.request("staff-1")
    for login in ("frank:wrong", "frank:", "nobody:x", "*:x"):
        assert b"wrong" in site.post("staff/simpleenroll", request, "-u", login, status=401)
    told = site.folder / "head"
    body = site.post("staff/simpleenroll", request, "-u", f"frank:{USER_PASSWORD}", "-D", str(told))
    site.certificate(body, "staff-1")
    assert "Pkiserver-Note: the password expires in 9 days" in told.read_text().splitlines()


def test_curl_gets_a_password_by_mail_and_enrols_with_it(world: World, mails: MailServer) -> None:
    table = f'[mail]\nservers = ["smtp://127.0.0.1:{mails.port}"]\nsender = "pki@example.org"\n'
    put(world, "post", table)
    mail = (("mail", "carol@example.org"),)
    world.one(world.engine.accounts.create("carol", None, attributes=mail, by="tester"))
    site = world.site
    request = site.request("post-1")
    body = site.post("post/simpleenroll", request, "-u", "carol:", status=401)
    assert b"one-time password is sent by mail" in body
    backend = world.engine.connectors.get("post").backend
    assert isinstance(backend, MailConnector)
    world.one(Deferred.fromCoroutine(backend.settled()))
    password = mails.mails[-1].get_content().splitlines()[0]
    issued = site.certificate(site.post("post/simpleenroll", request, "-u", f"carol:{password}"), "post-1")
    assert issued.subject.rfc4514_string() == "CN=post-1"
    again = site.request("post-2")
    assert b"wrong" in site.post("post/simpleenroll", again, "-u", f"carol:{password}", status=401)
    renewed = ("--cert", "post-1.crt", "--key", "post-1.key")
    site.certificate(site.post("post/simplereenroll", request, *renewed), "post-3")
