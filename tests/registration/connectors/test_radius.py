"""The RADIUS connector against a real FreeRADIUS, and against answers that are not what they should be."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from pyrad import packet

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.registration.connectors import radius
from pkiserver.registration.connectors.radius import RadiusConnector, dictionary
from pkiserver.registration.connectors.settings import load_connector
from pkiserver.registration.connectors.values import Challenge, Denied, Shown, Step
from tests.support.freeradius import PASSWORD, SECRET, FreeRadius

RIGHT = Secret(PASSWORD)
MAPS = """
groups = "Filter-Id"
[[radius.attributes]]
name = "mail"
from = "Class"
required = true
[[radius.attributes]]
name = "display_name"
from = "Connect-Info"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[FreeRadius]:
    made = FreeRadius()
    yield made
    made.discard()


@pytest.fixture(autouse=True)
def shared_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADIUS_SECRET", SECRET)


def made(*ports: int, method: str = "pap", more: str = "") -> RadiusConnector:
    servers = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    text = f"""
name = "token"
kind = "connector"
[radius]
servers = [{servers}]
secret = "env:RADIUS_SECRET"
method = "{method}"
answer_timeout = "300ms"
{more}
"""
    settings = load_connector(text, "token.toml").radius
    assert settings is not None
    return RadiusConnector("token", settings, SystemClock())


@pytest.mark.parametrize("method", ["pap", "chap", "mschapv2"])
async def test_the_right_password_shows_the_user_and_no_other_does(server: FreeRadius, method: str) -> None:
    connector = made(server.port, method=method, more=MAPS)
    shown = await connector.authenticate("User", RIGHT)
    assert isinstance(shown, Shown)
    assert shown.groups == {"staff", "engineers"}
    assert shown.attributes == (("mail", "user@example.org"), ("display_name", "User Example"))
    for name, password in (("User", "wrong"), ("nobody", PASSWORD), ("User", ""), ("x" * 255, PASSWORD)):
        assert isinstance(await connector.authenticate(name, Secret(password)), Denied)
    missing = await connector.authenticate("long", Secret("0123456789" * 4))
    assert isinstance(missing, Denied)
    assert missing.step is Step.ATTRIBUTE


async def test_the_server_says_how_a_name_is_spelled(server: FreeRadius) -> None:
    shown = await made(server.port).authenticate("USER", RIGHT)
    assert isinstance(shown, Shown)
    assert shown.name == "User"


async def test_a_required_group(server: FreeRadius) -> None:
    more = 'groups = "Filter-Id"\nrequired_groups = ["managers"]'
    denied = await made(server.port, more=more).authenticate("User", RIGHT)
    assert isinstance(denied, Denied)
    assert denied.step is Step.GROUP


async def test_a_challenge_is_carried_and_answered(server: FreeRadius) -> None:
    connector = made(server.port)
    challenge = await connector.authenticate("token", RIGHT)
    assert isinstance(challenge, Challenge)
    assert challenge.prompt == "Enter the code on your token"
    brought_back = Challenge.of_token(challenge.token)
    assert isinstance(await connector.authenticate("token", Secret("123456"), brought_back), Shown)
    assert isinstance(await connector.authenticate("token", Secret("654321"), brought_back), Denied)
    assert isinstance(await connector.authenticate("token", Secret("123456"), Challenge("token", "", b"x")), Denied)


@pytest.mark.parametrize("method", ["chap", "mschapv2"])
async def test_what_a_person_types_goes_as_it_is_whatever_the_method(server: FreeRadius, method: str) -> None:
    connector = made(server.port, method=method)
    challenge = await connector.authenticate("token", RIGHT)
    assert isinstance(challenge, Challenge)
    assert isinstance(await connector.authenticate("token", Secret("123456"), challenge), Shown)


async def test_an_expired_password_is_told_as_one(server: FreeRadius) -> None:
    denied = await made(server.port, method="mschapv2").authenticate("expired", RIGHT)
    assert isinstance(denied, Denied)
    assert (denied.step, denied.text) == (Step.EXPIRED, "the password has expired")


async def test_answers_without_message_authenticator_do_not_count() -> None:
    old = FreeRadius(signs=False)
    try:
        with pytest.raises(Unavailable, match="have no Message-Authenticator"):
            await made(old.port, more="tries = 1").authenticate("User", RIGHT)
        [told] = await made(old.port, more="tries = 1").check(None, None)
        assert told.step is Step.ANSWER
        assert "have no Message-Authenticator" in told.text
    finally:
        old.discard()


async def test_several_servers_and_what_a_check_tells_apart(
    server: FreeRadius, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
    ):
        mute.bind(("127.0.0.1", 0))
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
        probe.close()
        silent = mute.getsockname()[1]
        connector = made(silent, closed, server.port, more="tries = 2")
        assert isinstance(await connector.authenticate("User", RIGHT), Shown)
        found = await connector.check(None, None)
        assert [one.step for one in found] == [Step.SILENT, Step.CONNECT, Step.FINE]
        with pytest.raises(Unavailable, match="no answer"):
            await made(silent, more="tries = 1").authenticate("User", RIGHT)
    assert (await made(server.port).check("User", RIGHT))[0].step is Step.FINE
    assert (await made(server.port).check("User", Secret("wrong")))[0].step is Step.PASSWORD
    monkeypatch.setenv("RADIUS_SECRET", "another")
    assert (await made(server.port, more="tries = 1").check(None, None))[0].step is Step.SILENT
    monkeypatch.delenv("RADIUS_SECRET")
    assert (await made(server.port).check(None, None))[0].step is Step.SETTINGS


async def test_the_address_at_which_somebody_listens(server: FreeRadius, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ("::1", "127.0.0.1")  # as localhost has them on many machines

    async def several(host: str, seconds: float) -> tuple[str, ...]:
        del host, seconds
        return found

    monkeypatch.setattr(radius, "resolve", several)
    assert isinstance(await made(server.port).authenticate("User", RIGHT), Shown)
    found = found[:1]
    assert [one.step for one in await made(server.port).check(None, None)] == [Step.CONNECT]


async def test_an_address_that_says_nothing_is_not_the_last_word(
    server: FreeRadius, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.2", server.port))  # a firewall that swallows, on the way to one of two addresses
        mute.setblocking(False)
        found = ("127.0.0.2", "127.0.0.1")

        async def several(host: str, seconds: float) -> tuple[str, ...]:
            del host, seconds
            return found

        monkeypatch.setattr(radius, "resolve", several)
        connector = made(server.port)
        assert isinstance(await connector.authenticate("User", RIGHT), Shown)
        assert len(received(mute)) == 2  # of three tries each address has its share
        assert isinstance(await connector.authenticate("User", RIGHT), Shown)
        assert received(mute) == []  # it is known by now which one answers
        found = ("127.0.0.2", "::1")
        assert [one.step for one in await made(server.port).check(None, None)] == [Step.SILENT]
        found = ("127.0.0.2",)
        with pytest.raises(Unavailable, match="no answer to 3 packets"):
            await made(server.port).authenticate("User", RIGHT)


def received(end: socket.socket) -> list[bytes]:
    """What has come in so far."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(end.recv(4096))
    return found


class Impostor:
    """Answers every request with what ``reply`` makes of it; the first ``deaf`` ones not at all."""

    def __init__(self, reply: Callable[[packet.AuthPacket], bytes], deaf: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(5)
        self.port = self.socket.getsockname()[1]
        self.seen: list[bytes] = []
        self._reply = reply
        self._deaf = deaf
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            while True:
                data, peer = self.socket.recvfrom(4096)
                self.seen.append(data)
                if len(self.seen) > self._deaf:
                    request = packet.AuthPacket(secret=SECRET.encode(), dict=dictionary(), packet=data)
                    self.socket.sendto(self._reply(request), peer)
        except OSError:
            return


def accepting(request: packet.AuthPacket, **more: object) -> bytes:
    reply = request.CreateReply(**more)
    reply.code = packet.AccessAccept
    octets: bytes = reply.ReplyPacket()
    return octets


async def test_a_lost_packet_is_sent_again_as_it_was() -> None:
    server = Impostor(accepting, deaf=2)
    assert isinstance(await made(server.port).authenticate("User", RIGHT), Shown)
    assert len(server.seen) == 3
    assert len(set(server.seen)) == 1
    request = packet.AuthPacket(secret=SECRET.encode(), dict=dictionary(), packet=server.seen[0])
    assert request.message_authenticator
    assert request.verify_message_authenticator()


@pytest.mark.parametrize(
    "reply",
    [
        lambda request: b"",
        lambda request: accepting(request)[:-1],
        lambda request: bytes(20),
        lambda request: accepting(request, message_authenticator=False),
        lambda request: accepting(
            packet.AuthPacket(secret=b"other", id=request.id, authenticator=request.authenticator)
        ),
        lambda request: bytes((11,)) + accepting(request)[1:],
        lambda request: accepting(request)[:4] + bytes(16) + accepting(request)[20:],
    ],
)
async def test_forged_answers_do_not_count(reply: Callable[[packet.AuthPacket], bytes]) -> None:
    server = Impostor(reply)
    with pytest.raises(Unavailable, match="bad answer"):
        await made(server.port, more="tries = 1").authenticate("User", RIGHT)


async def test_mschapv2_wants_the_server_s_proof() -> None:
    server = Impostor(accepting)
    with pytest.raises(Unavailable, match="did not prove that it knows the password"):
        await made(server.port, method="mschapv2").authenticate("User", RIGHT)


def test_settings_that_cannot_be_meant() -> None:
    for more, what in (
        ('required_groups = ["x"]', "which attribute"),
        ('nas_identifier = ""', "empty"),
        ("tries = 0", "tries"),
    ):
        with pytest.raises(ConfigurationError, match=what):
            made(1812, more=more)


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ('groups = "Filter-ID"', "radius.groups"),
        ('[[radius.attributes]]\nname = "mail"\nfrom = "E-Mail"', "radius.attributes"),
        ('[[radius.attributes]]\nname = "mail"\nfrom = "9/x"', "radius.attributes"),
    ],
)
def test_an_attribute_that_no_answer_can_have_is_refused_with_those_that_it_can(more: str, where: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{where}: .*is no attribute.*allowed: VENDOR/TYPE.*Filter-Id"):
        made(1812, more=more)
    made(1812, more='groups = "9/1"')
