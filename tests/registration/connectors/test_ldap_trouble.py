"""The LDAP connector where something is out of order, which is nobody's wrong password."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.outbound.dial import REST
from pkiserver.outbound.ldap import LdapConnection, LdapError
from pkiserver.registration.connectors import ldappolicy, ldapuser
from pkiserver.registration.connectors.values import Denied, Shown, Step
from tests.registration.connectors.making import ldap_connector
from tests.registration.connectors.test_ldap import GROUPS, PATTERN, RIGHT, SERVICE, made, plain
from tests.support.slapd import SUFFIX, Slapd
from tests.support.tlsfiles import TestCa


@pytest.fixture(scope="module")
def directory() -> Iterator[Slapd]:
    server = Slapd()
    server.load(
        f"dn: ou=moved,ou=people,{SUFFIX}\nobjectClass: referral\nobjectClass: extensibleObject\nou: moved\n"
        f"ref: ldap://elsewhere.example/ou=moved,{SUFFIX}\n"
    )
    yield server
    server.discard()


@pytest.fixture(autouse=True)
def service_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDAP_SERVICE", "service secret")


@pytest.mark.parametrize("how", [SERVICE, PATTERN])
async def test_a_server_that_takes_connections_and_says_nothing_holds_up_nobody_for_long(
    directory: Slapd, how: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        servers = f'"ldap://127.0.0.1:{mute.getsockname()[1]}", "{directory.url}"'
        connector = made(servers, f'insecure = true\nanswer_timeout = "1s"\n{how}')
        assert isinstance(await connector.authenticate("alice", RIGHT), Shown)
        # it is asked last from then on, also for what is not begun anew elsewhere
        new = Secret("another long password")
        assert await connector.change_password("alice", RIGHT, new) is None
        assert await connector.change_password("alice", new, RIGHT) is None


async def test_servers_are_asked_in_their_order_and_who_failed_a_moment_ago_last(directory: Slapd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.setblocking(False)
        silent = f'"ldap://127.0.0.1:{mute.getsockname()[1]}"'
        more = f'insecure = true\nanswer_timeout = "1s"\n{SERVICE}'
        for _ in range(2):
            assert isinstance(await made(f'"{directory.url}", {silent}', more).authenticate("alice", RIGHT), Shown)
        with pytest.raises(BlockingIOError):
            mute.accept()  # the first one answers: nobody comes to the second
        connector = made(f'{silent}, "{directory.url}"', more)
        for _ in range(3):
            assert isinstance(await connector.authenticate("alice", RIGHT), Shown)
        mute.accept()[0].close()
        with pytest.raises(BlockingIOError):
            mute.accept()  # it was asked once
        connector._servers._clock = Later()
        assert isinstance(await connector.authenticate("alice", RIGHT), Shown)
        mute.accept()[0].close()  # after a while it is the first again


class Later(SystemClock):
    def monotonic(self) -> float:
        return super().monotonic() + REST + 1


async def test_a_change_is_not_begun_anew_elsewhere_but_the_next_goes_to_who_answers(directory: Slapd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        servers = f'"ldap://127.0.0.1:{mute.getsockname()[1]}", "{directory.url}"'
        connector = made(servers, f'insecure = true\nanswer_timeout = "1s"\n{SERVICE}')
        with pytest.raises(Unavailable, match="no answer"):
            await connector.change_password("alice", RIGHT, Secret("another long password"))
        assert await connector.change_password("alice", RIGHT, RIGHT) is None


def refusing(code: int) -> tuple[socket.socket, str]:
    """A server that answers whatever it is asked first, a bind, with this result; and its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, contextlib.suppress(ConnectionError):
                    asked = connection.recv(4096)
                    begins = 2 if asked[1] < 0x80 else 2 + (asked[1] & 0x7F)
                    number = asked[begins : begins + 2 + asked[begins + 1]]
                    inner = bytes((0x61, 7, 0x0A, 1, code)) + b"\x04\x00\x04\x00"
                    connection.sendall(bytes((0x30, len(number) + len(inner))) + number + inner)
                    connection.recv(4096)

    threading.Thread(target=serve, daemon=True).start()
    return server, f"ldap://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("how", "code"), [(PATTERN, 1), (PATTERN, 80), (SERVICE, 49), (SERVICE, 53), (PATTERN + SERVICE, 52)]
)
async def test_a_server_that_is_out_of_order_or_keeps_the_service_account_out_is_passed_over(
    directory: Slapd, how: str, code: int
) -> None:
    server, address = refusing(code)
    with server:
        connector = made(f'"{address}", "{directory.url}"', f"insecure = true\n{how}")
        assert isinstance(await connector.authenticate("alice", RIGHT), Shown)
        assert isinstance(await connector.authenticate("alice", Secret("wrong")), Denied)
        alone = made(f'"{address}"', f"insecure = true\n{how}")
        with pytest.raises(Unavailable):
            await alone.authenticate("alice", RIGHT)
        [found] = await alone.check(None, None)
        assert (found.step is Step.BIND) == ("service" in how), found


@pytest.mark.parametrize("how", [SERVICE, PATTERN, PATTERN + SERVICE])
async def test_a_base_that_is_not_there_is_no_wrong_password(directory: Slapd, how: str) -> None:
    wrong = f"ou=persons,{SUFFIX}"
    text = f"there is no entry '{wrong}' to search below"
    nobodys = ldap_connector(f'"{directory.url}"', wrong, f"insecure = true\n{how}", GROUPS)
    groupless = plain(directory, how, f'[ldap.groups]\nbase = "{wrong}"\n')
    for connector in (nobodys, groupless):
        with pytest.raises(Unavailable, match=text):
            await connector.authenticate("alice", RIGHT)
        [told] = await connector.check("alice", RIGHT)
        assert (told.step, text in told.text) == (Step.ANSWER, True)
        if "service" in how:
            with pytest.raises(Unavailable, match=text):  # nobody has left
                await connector.lookup("alice")
            [told] = await connector.check(None, None)
            assert (told.step, text in told.text) == (Step.ANSWER, True)


async def test_a_check_that_searches_as_nobody_says_so(directory: Slapd) -> None:
    with_a_password = "give the user's password too"
    [shown] = await plain(directory, PATTERN).check("alice", RIGHT)
    assert shown.step is Step.FINE
    [hidden] = await plain(directory, PATTERN).check("alice", None)
    assert with_a_password in hidden.text, hidden
    [unknown] = await plain(directory, SERVICE).check("nobody", None)
    assert (unknown.step, with_a_password in unknown.text) == (Step.USER, False)


async def test_a_server_that_never_shakes_hands_is_silent_and_not_untrusted(directory: Slapd, tmp_path: Path) -> None:
    ca = TestCa(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        more = f'connect_timeout = "300ms"\n{SERVICE}[ldap.tls]\ntrust = "{ca.file}"\n'
        [told] = await made(f'"ldaps://127.0.0.1:{mute.getsockname()[1]}"', more).check(None, None)
    assert (told.step, told.text) == (Step.SILENT, "the TLS handshake does not end")


async def test_a_referral_is_no_wrong_password(directory: Slapd) -> None:
    for code in (1, 9, 10, 51, 52, 80):
        with pytest.raises(LdapError):
            ldappolicy.bind_denial(LdapError(code, ""))
    # what a search finds below a branch that is elsewhere is left out, and hurts nobody
    assert isinstance(await plain(directory, SERVICE, GROUPS).authenticate("alice", RIGHT), Shown)


@pytest.mark.parametrize(
    "kind", [0x65, 0x64, 0x67, 0x78], ids=["end of a search", "entry of a search", "modified", "extended"]
)
async def test_an_answer_to_another_question_is_no_yes(kind: int) -> None:
    inner = bytes((kind, 7)) + b"\x0a\x01\x00\x04\x00\x04\x00"
    if kind == 0x64:
        inner = bytes((kind, 8)) + b"\x04\x04cn=x\x30\x00"

    def answer(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection, contextlib.suppress(ConnectionError):
            asked = connection.recv(4096)
            begins = 2 if asked[1] < 0x80 else 2 + (asked[1] & 0x7F)
            number = asked[begins : begins + 2 + asked[begins + 1]]
            connection.sendall(bytes((0x30, len(number) + len(inner))) + number + inner)
            connection.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        connector = made(f'"ldap://127.0.0.1:{server.getsockname()[1]}"', f"insecure = true\n{PATTERN}")
        with pytest.raises(Unavailable, match="another question"):
            await connector.authenticate("alice", RIGHT)


async def test_row_20_a_wrong_password_costs_as_many_questions_as_an_unknown_name(
    directory: Slapd, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[str] = Counter()
    for name in ("search", "bind"):
        inner = getattr(LdapConnection, name)

        def counted(*arguments: Any, _name: str = name, _inner: Any = inner, **named: Any) -> Any:
            asked[_name] += 1
            return _inner(*arguments, **named)

        monkeypatch.setattr(LdapConnection, name, counted)
    connector = plain(directory, SERVICE, GROUPS)
    assert isinstance(await connector.authenticate("nobody", RIGHT), Denied)
    unknown = asked.copy()
    asked.clear()
    assert isinstance(await connector.authenticate("alice", Secret("wrong")), Denied)
    assert asked == unknown


@pytest.mark.parametrize("how", [SERVICE, PATTERN, PATTERN + SERVICE])
async def test_who_may_be_called_in_many_ways_has_one_name(directory: Slapd, how: str) -> None:
    connector = plain(directory, how)
    for name in ("alice", "ALICE", "Alice"):
        shown = await connector.authenticate(name, RIGHT)
        assert isinstance(shown, Shown)
        assert shown.name == "alice"
    for name in ("alice ", " alice"):
        assert isinstance(await connector.authenticate(name, RIGHT), Denied)
    if how is not PATTERN:
        found = await connector.lookup("ALICE")
        assert isinstance(found, Shown)
        assert found.name == "alice"


@contextlib.contextmanager
def member_of(count: int, limits: str, tls: tuple[Path, Path] | None = None) -> Iterator[Slapd]:
    """A directory in which alice is in so many groups more."""
    server = Slapd(tls, rules=limits)
    try:
        entry = "dn: cn=g{0},ou=groups,{1}\nobjectClass: groupOfNames\ncn: g{0}\nmember: uid=alice,ou=people,{1}\n"
        server.load("\n".join(entry.format(number, SUFFIX) for number in range(count)))
        yield server
    finally:
        server.discard()


async def test_more_groups_than_a_directory_lists_at_once_come_in_pages(tmp_path: Path) -> None:
    pages = f'limits dn.exact="cn=pki,{SUFFIX}" size=500 size.prtotal=unlimited'
    ca = TestCa(tmp_path)
    with member_of(700, pages, ca.issue("slapd", hosts=("127.0.0.1",))) as server:
        trust = f"[ldap.tls]\ntrust = '''{ca.pem}'''\n"
        for connector in (
            plain(server, SERVICE, GROUPS),
            made(f'"ldaps://127.0.0.1:{server.tls_port}"', SERVICE, GROUPS + trust),
            made(f'"{server.url}"', SERVICE + "start_tls = true\n", GROUPS + trust),
        ):
            shown = await connector.authenticate("alice", RIGHT)
            assert isinstance(shown, Shown)
            assert len(shown.groups) == 702  # with engineers, and staff by it
        required = GROUPS + f'required = ["cn=g699,ou=groups,{SUFFIX}"]'
        assert isinstance(await plain(server, SERVICE, required).authenticate("alice", RIGHT), Shown)


async def test_groups_that_a_directory_does_not_list_are_a_clear_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    with member_of(600, "") as server:  # 500 is what slapd gives to whom nothing else is said of
        connector = plain(server, SERVICE, GROUPS)
        denied = await connector.authenticate("alice", RIGHT)
        assert isinstance(denied, Denied)
        assert denied.step is Step.GROUP
        assert "raise the size limit of the account that searches" in denied.text
        assert (await connector.check("alice", RIGHT))[0].text == denied.text
        wrong = await connector.authenticate("alice", Secret("wrong"))
        assert isinstance(wrong, Denied)
        assert wrong.step is Step.PASSWORD
    monkeypatch.setattr(ldapuser, "MAX_GROUPS", 1)
    with member_of(2, "") as server:
        for how in (GROUPS, GROUPS.replace("nested = true", "")):
            denied = await plain(server, SERVICE, how).authenticate("alice", RIGHT)
            assert isinstance(denied, Denied)
            assert "groups: narrow filter and base" in denied.text


async def test_row_34_no_value_of_a_directory_makes_a_pattern_slow(directory: Slapd) -> None:
    """With Python's own engine the pattern of words and blanks takes longer than anybody lives for this name."""
    name = "a" * 60 + "1"
    directory.load(f"dn: uid=bob,ou=people,{SUFFIX}\nchangetype: modify\nreplace: cn\ncn: {name}\ncn: Bob Builder\n")
    words = '[[ldap.attributes]]\nname = "display_name"\nfrom = "cn"\nmatch = \'^([A-Za-z]+ ?)+$\'\n'
    first = words.replace("([A-Za-z]+ ?)+", "([A-Za-z]+) .*")
    for pattern, taken in ((words, "Builder"), (first, "Bob")):
        shown = await plain(directory, SERVICE, pattern).authenticate("bob", RIGHT)
        assert isinstance(shown, Shown)
        assert shown.attributes == (("display_name", taken),)
    with pytest.raises(ConfigurationError, match="no regular expression of the kind that is taken"):
        plain(directory, SERVICE, words.replace("^(", "(?!x)("))
