"""CRL targets that fail in every way and come back: told, tried ever more seldom, and then brought the newest list."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from twisted.conch.ssh.keys import Key
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import blockingCallFromThread

from pkiserver.authority.delivery import carriers
from pkiserver.authority.delivery.service import LONGEST_PAUSE, TargetDeliveries
from pkiserver.authority.delivery.settings import CrlTarget, DirectoryTarget, LdapTarget, PutTarget, SftpTarget
from pkiserver.authority.delivery.values import DeliveryError
from pkiserver.authority.status.turns import Turns
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.health import Health
from pkiserver.runtime.services.crltargets import CrlTargets
from tests.authority.crl_world import MINUTE, published
from tests.authority.status_world import HOUR, Parts, StatusWorld
from tests.support.sftpserver import USER, SftpServer
from tests.support.slapd import ADMIN, ADMIN_PASSWORD, SUFFIX, Slapd

reactor: Any = _reactor
SECOND = timedelta(seconds=1)
SHORT: dict[str, Any] = {"name": "bad", "authorities": ("issuing",), "timeout": SECOND}


@attrs.frozen
class Node:
    """Of a node's settings, what the targets need."""

    crl_target: tuple[CrlTarget, ...]
    node: str = "ca1"


class Watched:
    """A target, what readiness and metrics say of it, and another target that must never wait for it."""

    def __init__(self, at: StatusWorld, bad: CrlTarget, folder: Path) -> None:
        self.at = at
        self.other = folder / "other" / "issuing-1.crl"
        good = DirectoryTarget(name="good", directory=folder / "other")
        parts = Parts(at.world.database, at.world.road.authorities, at.clock, Node((bad, good)))
        self._targets = CrlTargets(cast("Engine", parts), "test")
        self._bad, self._good = (job.run for job in self._targets.jobs())
        self.tries = 0

    async def look(self) -> None:
        """One look of each target's job, at the same time; the other must end first where this one hangs."""
        trying = Deferred.fromCoroutine(cast("Any", self._bad()))
        await self._good()
        assert self.other.read_bytes() == await published(self.at, "issuing-1")
        before = self.figures()[1]
        await trying
        self.tries += self.figures()[1] > before

    async def told(self) -> tuple[Health, str]:
        """What readiness says of the target."""
        found = {one.name: one for one in await self._targets.check().run()}
        assert found["crl-target:good"].health is Health.OK
        return found["crl-target:bad"].health, found["crl-target:bad"].text

    def figures(self) -> tuple[float, float]:
        """Lists waiting and tries failed, as Prometheus is told."""
        return tuple(  # type: ignore[return-value]
            sample.value
            for family in self._targets.collect()
            for sample in family.samples
            if sample.labels == {"target": "bad"}
        )

    async def new_list(self) -> None:
        self.at.clock.advance(HOUR)
        await self.at.status.schedule.run_due()


@attrs.frozen
class Trouble:
    """How a target is broken and mended, what it then says (a regular expression), and how often it is tried."""

    why: str
    break_: Callable[[], object]
    mend: Callable[[], object]
    times: int = 3


async def fails_and_returns(at: StatusWorld, folder: Path, target: CrlTarget, trouble: Trouble) -> None:
    """The story of every target; the lists of the time between are never brought."""
    await at.status.schedule.run_due()
    watched = Watched(at, target, folder)
    await watched.look()
    assert (await watched.told())[0] is Health.OK
    trouble.break_()
    for failed in range(1, trouble.times + 1):
        await watched.new_list()
        await watched.look()
        health, text = await watched.told()
        assert health is Health.WARNING
        assert re.search(trouble.why, text), text
        assert f"failed {failed} times, lists to be delivered: 1" in text
        assert watched.figures() == (1, failed)
        await watched.look()
        assert watched.figures() == (1, failed), "it is left alone for a while"
    trouble.mend()
    restarted = Watched(at, target, folder)
    at.clock.advance(LONGEST_PAUSE)
    await restarted.look()
    assert await restarted.told() == (Health.OK, "lists to be delivered: 0")
    assert restarted.figures() == (0, 0)


async def test_a_directory_that_is_full(at: StatusWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "www" / "issuing-1.crl"

    right = os.fsync

    def full(file: int) -> None:
        if Path(f"/proc/self/fd/{file}").readlink().is_relative_to(place.parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        right(file)

    def break_() -> None:
        monkeypatch.setattr(os, "fsync", full)

    def mend() -> None:
        assert [one.name for one in place.parent.iterdir()] == ["issuing-1.crl"], "nothing half written is left"
        assert place.read_bytes() == before
        monkeypatch.undo()

    await at.status.schedule.run_due()
    before = await published(at, "issuing-1")
    target = DirectoryTarget(**SHORT, directory=place.parent)
    await fails_and_returns(at, tmp_path, target, Trouble("No space left", break_, mend))
    assert place.read_bytes() == await published(at, "issuing-1")


async def test_a_directory_that_is_removed_is_made_again(at: StatusWorld, tmp_path: Path) -> None:
    place = tmp_path / "www" / "issuing-1.crl"
    await at.status.schedule.run_due()
    watched = Watched(at, DirectoryTarget(**SHORT, directory=place.parent), tmp_path)
    await watched.look()
    place.unlink()
    place.parent.rmdir()
    await watched.new_list()
    await watched.look()
    assert place.read_bytes() == await published(at, "issuing-1")


async def test_a_file_system_that_does_not_answer(
    at: StatusWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps one thread, however often it is tried, and what it wrote late is overwritten."""
    answer, threads = threading.Event(), []
    right = carriers._write

    def stuck(place: Path, octets: bytes) -> None:
        if place.is_relative_to(tmp_path / "www"):
            threads.append(threading.current_thread())
            answer.wait(30)
        right(place, octets)

    monkeypatch.setattr(carriers, "_write", stuck)
    await at.status.schedule.run_due()
    watched = Watched(at, DirectoryTarget(**SHORT, directory=tmp_path / "www"), tmp_path)
    try:
        await watched.look()
        assert "was not taken within 1 s" in (await watched.told())[1]
        await watched.new_list()
        await watched.look()
        assert "an earlier list is still being written" in (await watched.told())[1]
        assert len(threads) == 1
    finally:
        answer.set()
    at.clock.advance(LONGEST_PAUSE)
    for _ in range(100):
        await watched.look()
        if (await watched.told())[0] is Health.OK:
            break
        at.clock.advance(LONGEST_PAUSE)
        await deferLater(reactor, 0.02)
    assert (tmp_path / "www" / "issuing-1.crl").read_bytes() == await published(at, "issuing-1")


async def test_an_sftp_server_with_another_host_key(at: StatusWorld, sftp: SftpServer, tmp_path: Path) -> None:
    known = sftp.known_hosts.read_text()
    other = Key(ed25519.Ed25519PrivateKey.generate()).public().toString("openssh").decode()
    target = SftpTarget(
        **SHORT, sftp=f"{USER}@127.0.0.1:{sftp.port}", key=sftp.client_key, known_hosts=sftp.known_hosts
    )
    await fails_and_returns(
        at,
        tmp_path,
        target,
        Trouble(
            "ANOTHER than in",
            lambda: sftp.known_hosts.write_text(f"[127.0.0.1]:{sftp.port} {other}\n"),
            lambda: sftp.known_hosts.write_text(known),
        ),
    )
    assert (sftp.root / "issuing-1.crl").read_bytes() == await published(at, "issuing-1")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n", "status 500"),
        (b"HTTP/1.1 302 Over there\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n", "status 302"),
        (b"SSH-2.0-x\r\n\r\n", "bad answer"),
        (b"", "no answer within|not taken within"),
        (None, "no answer within|not taken within"),
    ],
    ids=["error", "redirect", "no http", "silent", "trickle"],
)
async def test_a_web_server_that_does_not_take_lists(
    at: StatusWorld, web: Web, tmp_path: Path, answer: bytes | None, why: str
) -> None:
    def break_() -> None:
        web.taken.clear()
        web.answer = answer

    def mend() -> None:
        web.taken.clear()
        web.answer = Web.GOOD

    target = PutTarget(**SHORT, put=f"http://127.0.0.1:{web.port}/crl")
    await fails_and_returns(at, tmp_path, target, Trouble(why, break_, mend, times=1 if "within" in why else 3))
    [(line, body)] = web.taken
    assert line == b"PUT /crl/issuing-1.crl HTTP/1.1"
    assert body == await published(at, "issuing-1"), "the newest, and none of those between"


async def test_a_directory_server_that_refuses_us(at: StatusWorld, slapd: Slapd, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(ADMIN_PASSWORD)
    target = LdapTarget(
        **SHORT,
        ldap=(slapd.url,),
        entry=f"cn={{name}},{SUFFIX}",
        bind_dn=ADMIN,
        password_source=f"file:{password}",
    )
    await fails_and_returns(
        at,
        tmp_path,
        target,
        Trouble(
            "49|[Ii]nvalid",
            lambda: password.write_text("another"),
            lambda: password.write_text(ADMIN_PASSWORD),
        ),
    )
    assert "certificateRevocationList;binary:: " in slapd.search(f"cn=issuing-1,{SUFFIX}")


async def test_a_target_for_an_authority_that_is_not_there(at: StatusWorld, tmp_path: Path) -> None:
    """A name with a slip of the pen would else be a target that has all it wants."""
    await at.status.schedule.run_due()
    target = DirectoryTarget(name="bad", directory=tmp_path / "www", authorities=("issuing", "isuing"))
    watched = Watched(at, target, tmp_path)
    await watched.look()
    assert await watched.told() == (Health.WARNING, "lists to be delivered: 0: there is no authority isuing")
    assert (tmp_path / "www" / "issuing-1.crl").exists()
    assert watched.figures() == (0, 0)


async def test_a_slow_target_ends_within_its_turn(at: StatusWorld, tmp_path: Path) -> None:
    """However long each list takes: what failed is known, and the pauses grow."""
    await at.status.schedule.run_due()

    class Slow:
        tries = 0

        async def deliver(self, _parcel: object) -> None:
            Slow.tries += 1
            at.clock.advance(timedelta(seconds=50))
            raise DeliveryError("it took all its time")

    target = DirectoryTarget(name="slow", directory=tmp_path / "www", timeout=timedelta(seconds=50))
    database = at.world.database
    authorities = at.world.road.authorities
    turns = Turns(database, at.clock, "test")
    slow = TargetDeliveries(
        target, node="ca1", database=database, authorities=authorities, turns=turns, clock=at.clock, through=Slow()
    )
    for _ in range(60):
        await slow.run_due()
        at.clock.advance(timedelta(seconds=30))
    assert slow.standing.failing_for >= 4
    assert Slow.tries <= 20


async def test_a_clock_that_is_set_back_does_not_prolong_a_pause(at: StatusWorld, tmp_path: Path) -> None:
    await at.status.schedule.run_due()
    (tmp_path / "www").write_text("in the way")
    watched = Watched(at, DirectoryTarget(**SHORT, directory=tmp_path / "www"), tmp_path)
    await watched.look()
    assert watched.figures() == (1, 1)
    (tmp_path / "www").unlink()
    at.clock.step(-24 * HOUR)
    at.clock.advance(MINUTE)
    await at.status.schedule.run_due()
    await watched.look()
    assert watched.figures() == (0, 0)


class Web:
    """A web server that answers as told: at once, never, or one octet at a time."""

    GOOD = b"HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n"

    def __init__(self) -> None:
        self.answer: bytes | None = self.GOOD
        self.taken: list[tuple[bytes, bytes]] = []
        web = self

        class Taker(Protocol):
            def __init__(self) -> None:
                self.data = b""
                self.trickle: LoopingCall | None = None

            def dataReceived(self, data: bytes) -> None:
                self.data += data
                head, found, body = self.data.partition(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                if not found or length is None or len(body) < int(length[1]):
                    return
                web.taken.append((head.split(b"\r\n")[0], body))
                self.data = b""
                assert self.transport is not None
                if web.answer is None:
                    octets = iter(b"HTTP/1.1 201 " + b"M" * 10_000)
                    self.trickle = LoopingCall(lambda: self.transport.write(bytes([next(octets)])))
                    self.trickle.start(0.02)
                else:
                    self.transport.write(web.answer)

            def connectionLost(self, reason: object = None) -> None:
                if self.trickle is not None:
                    self.trickle.stop()

        self._port = blockingCallFromThread(reactor, reactor.listenTCP, 0, Factory.forProtocol(Taker), 50, "127.0.0.1")
        self.port = self._port.getHost().port

    def discard(self) -> None:
        blockingCallFromThread(reactor, self._port.stopListening)


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.discard()


@pytest.fixture
def sftp(tmp_path: Path) -> Iterator[SftpServer]:
    server = SftpServer(tmp_path / "sftp")
    yield server
    server.discard()
