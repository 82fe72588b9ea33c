"""The LDAP connector against a real slapd: who is shown, who is not and why, how it is told apart by a check."""

from __future__ import annotations

import socket
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.outbound.ldap import LdapError
from pkiserver.registration.connectors import ldappolicy
from pkiserver.registration.connectors.ldap import LdapConnector, unicode_password
from pkiserver.registration.connectors.values import Denied, Shown, Step
from tests.registration.connectors.making import ldap_connector, mapped_mail
from tests.support.ports import free_port
from tests.support.slapd import SUFFIX, USER_PASSWORD, Slapd
from tests.support.tlsfiles import TestCa

RIGHT = Secret(USER_PASSWORD)
GROUPS = f"""
[ldap.groups]
base = "ou=groups,{SUFFIX}"
nested = true
"""
MAIL = mapped_mail("cn")


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> TestCa:
    return TestCa(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def directory(ca: TestCa) -> Iterator[Slapd]:
    server = Slapd(ca.issue("slapd", hosts=("127.0.0.1", "localhost")))
    yield server
    server.discard()


@pytest.fixture(autouse=True)
def service_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDAP_SERVICE", "service secret")
    monkeypatch.setenv("LDAP_ADMIN", "admin secret")


def made(servers: str, more: str = "", tables: str = "") -> LdapConnector:
    return ldap_connector(servers, f"ou=people,{SUFFIX}", more, tables)


def plain(directory: Slapd, more: str = "", tables: str = "") -> LdapConnector:
    return made(f'"{directory.url}"', f"insecure = true\n{more}", tables)


SERVICE = f'service_name = "cn=pki,{SUFFIX}"\nservice_password = "env:LDAP_SERVICE"\n'
ADMIN = f'service_name = "cn=admin,{SUFFIX}"\nservice_password = "env:LDAP_ADMIN"\n'
PATTERN = f'bind_name = "uid=$(userid),ou=people,{SUFFIX}"\n'


@pytest.mark.parametrize("how", [SERVICE, PATTERN, PATTERN + SERVICE])
async def test_somebody_with_groups_of_groups_and_filtered_attributes(directory: Slapd, how: str) -> None:
    shown = await plain(directory, how, MAIL + GROUPS).authenticate("alice", RIGHT)
    assert isinstance(shown, Shown)
    assert shown.groups == {"engineers", "staff"}
    assert shown.attributes == (("mail", "alice@example.org"), ("display_name", "Alice Example"))


@pytest.mark.parametrize("how", [SERVICE, PATTERN])
@pytest.mark.parametrize(
    ("name", "password", "step"),
    [
        ("alice", "wrong", Step.PASSWORD),
        ("alice", "", Step.PASSWORD),
        ("alice", "with\x00nul", Step.PASSWORD),
        ("", USER_PASSWORD, Step.USER),
        ("x" * 300, USER_PASSWORD, Step.USER),
        ("alice\n", USER_PASSWORD, Step.USER),
        ("bob", USER_PASSWORD, Step.ATTRIBUTE),
    ],
)
async def test_why_nobody_is_shown_is_told_by_step(
    directory: Slapd, how: str, name: str, password: str, step: Step
) -> None:
    denied = await plain(directory, how, MAIL).authenticate(name, Secret(password))
    assert isinstance(denied, Denied)
    assert denied.step is step


@pytest.mark.parametrize("name", ["*", "al*", "alice)(uid=*", "a*)(|(uid=alice)", "\\2a", "alice,ou=people"])
@pytest.mark.parametrize("how", [SERVICE, PATTERN])
async def test_row_18_a_name_is_never_a_filter_nor_a_dn(directory: Slapd, how: str, name: str) -> None:
    denied = await plain(directory, how).authenticate(name, RIGHT)
    assert isinstance(denied, Denied)


@pytest.mark.parametrize("how", [SERVICE, PATTERN])
async def test_row_18_a_name_with_every_special_character_is_found(directory: Slapd, how: str) -> None:
    shown = await plain(directory, how, MAIL).authenticate("a*(b)\\c", RIGHT)
    assert isinstance(shown, Shown)
    assert ("mail", "odd@example.org") in shown.attributes


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_who_is_bound_by_a_pattern_is_nobody_else_whom_the_filter_finds(directory: Slapd, service: str) -> None:
    entry = "dn: uid={0},ou=people,{1}\nobjectClass: inetOrgPerson\nuid: {0}\ncn: {2}\nsn: x\nuserPassword: {3}\n\n"
    name = f"eve-{bool(service)}"
    directory.load(entry.format(name, SUFFIX, "Eve", "of eve"))
    directory.load(entry.format(f"frank-{name}", SUFFIX, name, USER_PASSWORD))
    connector = plain(directory, f'{PATTERN}{service}user_filter = "(cn=$(userid))"\n', GROUPS)
    denied = await connector.authenticate(name, Secret("of eve"))
    assert isinstance(denied, Denied)
    assert (denied.step, denied.proved) == (Step.PASSWORD, False)
    assert f"uid=frank-{name}" in denied.text
    assert isinstance(await plain(directory, PATTERN + service, GROUPS).authenticate(name, Secret("of eve")), Shown)


async def test_a_required_group_may_be_reached_through_another(directory: Slapd) -> None:
    required = GROUPS + f'required = ["CN=Staff, ou=groups,{SUFFIX}"]'
    assert isinstance(await plain(directory, SERVICE, required).authenticate("alice", RIGHT), Shown)
    direct = required.replace("nested = true", "nested = false")
    denied = await plain(directory, SERVICE, direct).authenticate("alice", RIGHT)
    assert isinstance(denied, Denied)
    assert denied.step is Step.GROUP
    outside = await plain(directory, SERVICE, required).authenticate("bob", RIGHT)
    assert isinstance(outside, Denied)


async def test_row_20_a_required_group_is_told_only_to_who_has_the_password(directory: Slapd) -> None:
    required = GROUPS + f'required = ["cn=staff,ou=groups,{SUFFIX}"]'
    for name in ("bob", "nobody"):
        denied = await plain(directory, SERVICE, required).authenticate(name, Secret("wrong"))
        assert isinstance(denied, Denied)
        assert not denied.proved


@pytest.mark.parametrize("scheme", ["ldaps", "starttls"])
async def test_tls_with_own_anchors_and_service_identity(
    directory: Slapd, ca: TestCa, scheme: str, tmp_path: Path
) -> None:
    def over(host: str, trust: str) -> LdapConnector:
        port = directory.tls_port if scheme == "ldaps" else directory.port
        url = f'"{"ldaps" if scheme == "ldaps" else "ldap"}://{host}:{port}"'
        more = SERVICE + ("" if scheme == "ldaps" else "start_tls = true\n")
        return made(url, more, f"[ldap.tls]\ntrust = '''{trust}'''\n")

    for host in ("127.0.0.1", "localhost"):
        assert isinstance(await over(host, ca.pem).authenticate("alice", RIGHT), Shown)
    for file in (f"file:{ca.file}", str(ca.file)):
        assert isinstance(await over("localhost", file).authenticate("alice", RIGHT), Shown)
    (absent,) = await over("localhost", f"{ca.file}x").check(None, None)
    assert absent.step is Step.SETTINGS
    assert f"{ca.file}x: No such file or directory" in absent.text
    with pytest.raises(ConfigurationError, match="is not an absolute path"):
        over("localhost", "file:ca.pem")
    other = TestCa(tmp_path, "Another CA")
    with pytest.raises(Unavailable, match="TLS not trusted"):
        await over("localhost", other.pem).authenticate("alice", RIGHT)
    (untrusted,) = await over("localhost", other.pem).check(None, None)
    assert untrusted.step is Step.TLS
    assert "issued by 'CN=Test CA', which is not among the trust anchors" in untrusted.text


async def test_a_certificate_for_another_name_is_told_with_both_names(ca: TestCa) -> None:
    server = Slapd(ca.issue("elsewhere", hosts=("ldap.elsewhere.example",)))
    try:
        url = f'"ldaps://localhost:{server.tls_port}"'
        (found,) = await made(url, SERVICE, f"[ldap.tls]\ntrust = '''{ca.pem}'''\n").check(None, None)
        assert found.step is Step.TLS
        assert found.text == (
            "the certificate is for ldap.elsewhere.example, not for localhost (issued by 'CN=Test CA')"
        )
    finally:
        server.discard()


async def test_what_a_check_tells_apart(directory: Slapd, monkeypatch: pytest.MonkeyPatch) -> None:
    async def step(connector: LdapConnector, name: str | None = None, password: Secret | None = None) -> Step:
        return (await connector.check(name, password))[-1].step

    required = GROUPS + f'required = ["cn=none,ou=groups,{SUFFIX}"]'
    assert await step(made('"ldap://no.such.host.invalid"', f"insecure = true\n{SERVICE}")) is Step.RESOLVE
    assert await step(made(f'"ldap://127.0.0.1:{free_port()}"', f"insecure = true\n{SERVICE}")) is Step.CONNECT
    assert await step(plain(directory, SERVICE)) is Step.FINE
    assert await step(plain(directory, SERVICE), "nobody") is Step.USER
    assert await step(plain(directory, SERVICE, required), "alice") is Step.GROUP
    assert await step(plain(directory, SERVICE, MAIL), "bob") is Step.ATTRIBUTE
    assert await step(plain(directory, SERVICE, MAIL), "alice") is Step.FINE
    assert await step(plain(directory, SERVICE), "alice", Secret("wrong")) is Step.PASSWORD
    assert await step(plain(directory, SERVICE), "alice", RIGHT) is Step.FINE
    monkeypatch.setenv("LDAP_SERVICE", "wrong")
    assert await step(plain(directory, SERVICE)) is Step.BIND
    monkeypatch.delenv("LDAP_SERVICE")
    assert await step(plain(directory, SERVICE)) is Step.SETTINGS


async def test_several_servers_in_their_order_with_time_outs(directory: Slapd) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    try:
        dead, mute = f'"ldap://127.0.0.1:{free_port()}"', f'"ldap://127.0.0.1:{silent.getsockname()[1]}"'
        more = f'insecure = true\nanswer_timeout = "1s"\n{SERVICE}'
        assert isinstance(await made(f'{dead}, "{directory.url}"', more).authenticate("alice", RIGHT), Shown)
        with pytest.raises(Unavailable, match="no answer"):
            await made(mute, more).authenticate("alice", RIGHT)
        found = await made(f'{mute}, {dead}, "{directory.url}"', more).check("alice", RIGHT)
        assert [one.step for one in found] == [Step.SILENT, Step.CONNECT, Step.FINE]
    finally:
        silent.close()


async def test_a_password_that_expires_is_announced_and_can_be_changed(directory: Slapd) -> None:
    directory.load(
        f"dn: uid=carol,ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: carol\ncn: Carol\nsn: C\n"
        f"userPassword: {USER_PASSWORD}\n"
    )
    connector = plain(directory, SERVICE)
    shown = await connector.authenticate("carol", RIGHT)
    assert isinstance(shown, Shown)
    assert shown.notes == ("the password expires in 9 days",)
    new = Secret("another long password")
    refused = await connector.change_password("carol", Secret("wrong"), new)
    assert isinstance(refused, Denied)
    assert await connector.change_password("carol", RIGHT, new) is None
    assert isinstance(await connector.authenticate("carol", RIGHT), Denied)
    assert isinstance(await connector.authenticate("carol", new), Shown)
    # whoever was given a password by an administrator must choose their own
    directory.load(f"dn: uid=carol,ou=people,{SUFFIX}\nchangetype: modify\nreplace: pwdReset\npwdReset: TRUE\n")
    expired = await connector.authenticate("carol", new)
    assert isinstance(expired, Denied)
    assert expired.step is Step.EXPIRED


@pytest.mark.parametrize("how", ["SERVICE", "ADMIN", "PATTERN", "PATTERN + SERVICE"])
async def test_who_must_change_the_password_does_it_with_their_own_rights(directory: Slapd, how: str) -> None:
    name = how.replace(" + ", "-").lower()
    dn = f"uid={name},ou=people,{SUFFIX}"
    directory.load(
        f"dn: {dn}\nobjectClass: inetOrgPerson\nuid: {name}\ncn: Carol\nsn: C\nuserPassword: {USER_PASSWORD}\n\n"
        f"dn: {dn}\nchangetype: modify\nreplace: pwdReset\npwdReset: TRUE\n"
    )
    settings = {"SERVICE": SERVICE, "ADMIN": ADMIN, "PATTERN": PATTERN, "PATTERN + SERVICE": PATTERN + SERVICE}
    connector, new = plain(directory, settings[how]), Secret("another long password")
    must = await connector.authenticate(name, RIGHT)
    assert isinstance(must, Denied)
    assert must.step is Step.EXPIRED
    assert isinstance(await connector.change_password(name, Secret("wrong"), new), Denied)
    assert await connector.change_password(name, RIGHT, new) is None
    # a password that an administrator of the directory had set would have to be changed again
    assert isinstance(await connector.authenticate(name, new), Shown)


async def test_the_last_logins_with_an_expired_password_are_counted_out(directory: Slapd) -> None:
    directory.load(
        f"dn: cn=brief,{SUFFIX}\nobjectClass: device\nobjectClass: pwdPolicy\ncn: brief\npwdAttribute: userPassword\n"
        "pwdMaxAge: 1\npwdGraceAuthNLimit: 2\n\n"
        f"dn: uid=grace,ou=people,{SUFFIX}\nobjectClass: inetOrgPerson\nuid: grace\ncn: Grace\nsn: G\n"
        f"userPassword: {USER_PASSWORD}\npwdPolicySubentry: cn=brief,{SUFFIX}\n"
    )
    connector, said = plain(directory, SERVICE), []
    while not isinstance(found := await connector.authenticate("grace", RIGHT), Denied):
        assert isinstance(found, Shown)
        said += found.notes
    assert said == [
        "the password has expired: 1 more login with it",
        "the password has expired: this was the last login with it",
    ]
    assert found.step is Step.EXPIRED


async def test_a_password_is_changed_in_active_directorys_way(directory: Slapd) -> None:
    # slapd takes unicodePwd as octets: what a domain controller makes of them is not seen here, but what it is sent
    dn = f"uid=erin,ou=people,{SUFFIX}"
    then = SystemClock().now() + timedelta(days=5, hours=1)
    filetime = int((then - datetime(1601, 1, 1, tzinfo=UTC)).total_seconds()) * 10_000_000
    directory.load(
        f"dn: {dn}\nobjectClass: inetOrgPerson\nobjectClass: testWindows\nuid: erin\ncn: Erin\nsn: E\n"
        f"userPassword: {USER_PASSWORD}\nmsDS-UserPasswordExpiryTimeComputed: {filetime}\n"
        f"unicodePwd:: {b64encode(unicode_password(RIGHT)).decode()}\n"
    )
    new = Secret("another long password")

    def kept() -> str:
        return directory.search(dn, "unicodePwd")

    connector = plain(directory, SERVICE + "active_directory = true\n")
    shown = await connector.authenticate("erin", RIGHT)
    assert isinstance(shown, Shown)
    assert shown.notes == ("the password expires in 5 days",)
    assert await connector.change_password("erin", RIGHT, new) is None
    assert b64encode(unicode_password(new)).decode() in kept()
    # the old value is deleted by itself: a change that does not know it is refused, and changes nothing
    refused = await connector.change_password("erin", RIGHT, Secret("a third long password"))
    assert isinstance(refused, Denied)
    assert "no such attribute" in refused.text
    assert b64encode(unicode_password(new)).decode() in kept()
    # an expired one is set by the service account, where that may
    directory.load(f"dn: {dn}\nchangetype: modify\nreplace: pwdReset\npwdReset: TRUE\n")
    third = Secret("a third long password")
    assert isinstance(await connector.change_password("erin", RIGHT, third), Denied)
    reset = plain(directory, ADMIN + "active_directory = true\n")
    assert await reset.change_password("erin", RIGHT, third) is None
    assert b64encode(unicode_password(third)).decode() in kept()


async def test_a_global_catalog_is_not_written_to(directory: Slapd, ca: TestCa) -> None:
    with pytest.raises(ConfigurationError, match="takes no changes"):
        made('"ldaps://127.0.0.1:3269"', SERVICE, f"[ldap.tls]\ntrust = '''{ca.pem}'''\n[ldap.publish]\n")
    catalog = made('"ldap://127.0.0.1:3268"', f"insecure = true\n{SERVICE}")
    denied = await catalog.change_password("alice", RIGHT, Secret("another long password"))
    assert isinstance(denied, Denied)
    assert denied.step is Step.SETTINGS
    both = made(f'"ldap://127.0.0.1:3268", "{directory.url}"', f"insecure = true\n{SERVICE}").settings
    assert [str(one) for one in both.service(writing=True).servers] == [directory.url]
    assert len(both.service().servers) == 2


@pytest.mark.parametrize(
    ("code", "step", "text"),
    [
        ("52e", Step.PASSWORD, "refuses the password"),
        ("532", Step.EXPIRED, "has expired"),
        ("533", Step.PASSWORD, "is disabled"),
        ("701", Step.PASSWORD, "account has expired"),
        ("773", Step.EXPIRED, "must be changed"),
        ("775", Step.PASSWORD, "is locked"),
    ],
)
def test_why_active_directory_refuses_a_bind(code: str, step: Step, text: str) -> None:
    said = f"80090308: LdapErr: DSID-0C090447, comment: AcceptSecurityContext error, data {code}, v3839\x00"
    denied = ldappolicy.bind_denial(LdapError(49, said))
    assert (denied.step, denied.proved) == (step, step is Step.EXPIRED)
    assert text in denied.text


def test_a_password_for_active_directory() -> None:
    # [MS-ADTS] 3.1.1.3.1.5 gives newPassword as this value
    assert (
        unicode_password(Secret("newPassword")) == b'"\x00n\x00e\x00w\x00P\x00a\x00s\x00s\x00w\x00o\x00r\x00d\x00"\x00'
    )


@pytest.mark.parametrize(
    ("more", "tables", "what"),
    [
        ("", "", "in the clear"),
        ("start_tls = true", "", "trust anchors"),
        ('insecure = true\nbind_name = "cn=all"', "", "does not name the user"),
        ('insecure = true\nuser_filter = "(uid=$(user))"', "", "no value"),
        ('insecure = true\nuser_filter = "(uid=$(userid)"', "", "not closed"),
        ("insecure = true\nservice_name = 'cn=x'", "", "go together"),
        ("insecure = true\nservice_name = 'cn=x'\nservice_password = 'secret'", "", "no reference"),
        ("insecure = true", "[ldap.groups]\nnested = true", "say where"),
        ("insecure = true", '[ldap.groups]\nrequired = ["Certificates"]', '"Certificates" is no DN'),
        ("insecure = true", "[ldap.publish]", "needs service_name"),
    ],
)
def test_settings_that_cannot_be_meant(more: str, tables: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        made('"ldap://127.0.0.1"', more, tables)
