"""What the self-check watches is broken one by one by something in front of the server; the alarm comes, and goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, cast

import attrs
import pytest
from cryptography.x509 import ocsp
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import blockingCallFromThread

from pkiserver.authority.status import selfcheck
from pkiserver.authority.status.points import DeltaPolicy, Partition, Point
from pkiserver.keys.settings import ProviderSettings
from pkiserver.outbound.addresses import Timeouts, WebAddress
from pkiserver.outbound.http import fetch
from pkiserver.runtime.config import SelfCheckSettings
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.health import Health
from pkiserver.runtime.services.selfchecking import SelfChecking
from protocols.web.factory import HttpServerFactory
from protocols.web.limits import WebLimits
from protocols.web.router import Router
from protocols.web.values import Method, Request, Response, Route
from tests.authority.crl_world import MINUTE, configure
from tests.authority.status_world import HOUR, Parts
from tests.protocols.status_server import StatusServer, status_server

reactor: Any = _reactor
MAIN, SHARD, DELTA = "/crl/issuing-1.crl", "/crl/issuing-1/shards/0.crl", "/crl/issuing-1/delta.crl"
DELTAS = DeltaPolicy(interval=10 * MINUTE, validity=2 * HOUR)
POINTS = (Point(), Point(partition=Partition.SHARDS, shards=2))


class Front:
    """Hands requests on to the server, unless a path has an answer of its own; remembers what went through."""

    def __init__(self, behind: StatusServer) -> None:
        self._behind = behind.url
        self.instead: dict[str, Response] = {}
        self.seen: dict[str, list[Response]] = {}
        self.hangs = False
        methods = {Method.GET, Method.POST}
        route = Route("front", "/", methods, self._answer, prefix=True, max_body=1 << 20)
        factory = HttpServerFactory(Router([route]), WebLimits(), behind.at.clock, reactor)
        self._port = blockingCallFromThread(reactor, reactor.listenTCP, 0, factory, 50, "127.0.0.1")
        self.url = f"http://127.0.0.1:{self._port.getHost().port}"

    async def _answer(self, request: Request) -> Response:
        if self.hangs:
            await Deferred()
        if request.path in self.instead:
            return self.instead[request.path]
        found = await fetch(
            WebAddress.parse(self._behind + request.target),
            trust=None,
            timeouts=Timeouts(timedelta(seconds=2), timedelta(seconds=5)),
            body=request.body or None,
            headers={"Content-Type": request.headers.get("content-type") or ""},
            limit=1 << 20,
        )
        self.seen.setdefault(request.path, []).append(Response(found.status, found.body))
        return self.seen[request.path][-1]

    def discard(self) -> None:
        blockingCallFromThread(reactor, self._port.stopListening)


@attrs.frozen
class Node:
    """Of a node's settings, what the self-check needs."""

    self_check: SelfCheckSettings
    node: str = "ca1"


@attrs.frozen
class Watch:
    """A server, what stands in front of it, and its self-check."""

    server: StatusServer
    front: Front
    checking: SelfChecking

    def alarms(self) -> dict[str, str]:
        """What readiness warns of after the next look; metrics must count the same."""
        self.server.at.clock.advance(MINUTE)
        [job] = self.checking.jobs()

        async def look() -> Any:
            await job.run()
            return await self.checking.check().run()

        found = {
            one.name.removeprefix(f"self-check:{self.front.url}"): one.text
            for one in self.server.run(look)
            if one.health is not Health.OK
        }
        [count] = [sample.value for family in self.checking.collect() for sample in family.samples]
        assert count == len(found)
        return found

    def serve(self, path: str, answer: Response | bytes) -> None:
        self.front.instead[path] = answer if isinstance(answer, Response) else Response(200, answer)


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory,
    stores: tuple[ProviderSettings, ...],
    on_reactor: Callable[[Any], Any],
) -> Iterator[StatusServer]:
    """One for all: every test leaves it as it should be."""
    with status_server(tmp_path_factory.mktemp("server"), stores, on_reactor) as opened:
        yield opened


@pytest.fixture(scope="module")
def watch(server: StatusServer) -> Iterator[Watch]:
    """Authorities whose URLs lead to the front."""
    front = Front(server)
    at = server.at

    async def prepare() -> None:
        for name in ("root", "issuing"):
            await configure(at, name, base_url=front.url, delta=DELTAS, points=POINTS)
        await at.certificate()
        await at.status.schedule.run_due()
        await at.status.directory.refresh()

    server.run(prepare)
    parts = Parts(at.world.database, at.world.road.authorities, at.clock, Node(SelfCheckSettings()))
    yield Watch(server, front, SelfChecking(cast("Engine", parts), "test"))
    front.discard()


Break = Callable[[Watch], None]


def never_changing(watch: Watch) -> None:
    """What a cache says that never asks again, of a list that was replaced long ago."""
    watch.serve(MAIN, Response(304))
    next_list(watch)


def old_list(watch: Watch) -> None:
    """The same to who asks for all of it."""
    watch.serve(MAIN, watch.front.seen[MAIN][-1])
    next_list(watch)


def next_list(watch: Watch) -> None:
    """Longer ago than a cache may keep the one before."""
    watch.server.at.clock.advance(HOUR)
    watch.server.run(watch.server.at.status.schedule.run_due)
    watch.server.at.clock.advance(10 * MINUTE)


def fallen_back(watch: Watch) -> None:
    """A list that is older than the one read before, at once."""
    before = watch.front.seen[MAIN][-1]
    watch.server.at.clock.advance(HOUR)
    watch.server.run(watch.server.at.status.schedule.run_due)
    watch.server.at.clock.advance(timedelta(seconds=2))
    assert watch.alarms() == {}
    watch.serve(MAIN, before)


def swap(path: str, other: str) -> Break:
    return lambda watch: watch.serve(path, watch.front.seen[other][-1])


def instead(path: str, answer: Response | bytes) -> Break:
    return lambda watch: watch.serve(path, answer)


LISTS: list[tuple[str, str, Break, str]] = [
    ("withheld", MAIN, instead(MAIN, Response(404)), "answered with status 404"),
    ("never changing", MAIN, never_changing, r"number \d+ is served, but \d+ was issued"),
    ("garbage", MAIN, instead(MAIN, b"<html>sorry</html>"), "not a certificate revocation list"),
    ("old", MAIN, old_list, r"number \d+ is served, but \d+ was issued"),
    ("fallen back", MAIN, fallen_back, r"fell back from \d+ to \d+"),
    ("another issuer's", MAIN, swap(MAIN, "/crl/root-1.crl"), "the list names another issuer"),
    ("another shard's", SHARD, swap(SHARD, "/crl/issuing-1/shards/1.crl"), "not the list that was issued here"),
    ("another kind", DELTA, swap(DELTA, MAIN), "another kind of list"),
]


@pytest.mark.parametrize(("path", "break_", "why"), [one[1:] for one in LISTS], ids=[one[0] for one in LISTS])
def test_a_list_that_is_not_as_it_should_be(watch: Watch, path: str, break_: Break, why: str) -> None:
    assert watch.alarms() == {}
    break_(watch)
    found = watch.alarms()
    assert set(found) == {path}
    assert re.search(why, found[path])
    watch.front.instead.clear()
    watch.server.run(watch.server.at.status.schedule.run_due)
    watch.server.at.clock.advance(timedelta(seconds=2))
    assert watch.alarms() == {}


@pytest.mark.parametrize(("interval", "quiet", "overdue"), [(timedelta(seconds=1), 20, 30), (MINUTE, 240, 360)])
def test_a_check_that_is_not_made_is_told(watch: Watch, interval: timedelta, quiet: int, overdue: int) -> None:
    at = watch.server.at
    assert watch.alarms() == {}
    parts = Parts(at.world.database, at.world.road.authorities, at.clock, Node(SelfCheckSettings(interval=interval)))
    checking = SelfChecking(cast("Engine", parts), "test")
    for seconds, health in ((quiet, Health.OK), (overdue - quiet, Health.WARNING)):
        at.clock.advance(timedelta(seconds=seconds))
        [told] = watch.server.run(checking.check().run)
        assert told.health is health, told
    assert watch.alarms() == {}


def test_a_front_that_hangs_holds_up_no_alarm(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two questions wait for their answers in vain, not one for each of the lists behind it."""
    assert watch.alarms() == {}
    short = timedelta(seconds=0.2)
    monkeypatch.setattr(selfcheck, "_TIMEOUTS", Timeouts(short, short))
    front = watch.front
    front.hangs = True
    found = watch.alarms()
    assert len(found) == 14, "all lists and answers"
    assert sum("no answer within" in text for text in found.values()) == 2
    assert sum("is not asked again" in text for text in found.values()) == 12
    front.hangs = False
    monkeypatch.undo()
    assert watch.alarms() == {}


@pytest.mark.parametrize("octets", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 what\r\n\r\n"])
def test_a_front_that_speaks_no_http(watch: Watch, octets: bytes) -> None:
    """Everything else is looked at all the same."""

    class Garbled(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.write(octets)
            self.transport.loseConnection()

    port = blockingCallFromThread(reactor, reactor.listenTCP, 0, Factory.forProtocol(Garbled), 50, "127.0.0.1")
    url = f"http://127.0.0.1:{port.getHost().port}"
    at = watch.server.at
    watch.server.run(lambda: configure(at, "root", base_url=url, points=POINTS))
    found = watch.alarms()
    blockingCallFromThread(reactor, port.stopListening)
    watch.server.run(lambda: configure(at, "root", base_url=watch.front.url, delta=DELTAS, points=POINTS))
    assert {subject.removeprefix(f"self-check:{url}") for subject in found} == {
        "/crl/root-1.crl", "/crl/root-1/shards/0.crl", "/crl/root-1/shards/1.crl", "/ocsp root-1",
    }  # fmt: skip
    assert all("cannot be read" in text for text in found.values())


def test_answers_of_ocsp_that_are_not_as_they_should_be(watch: Watch) -> None:
    """Each is an answer that was right at some time, or for another: what a front or a wrong responder gives."""
    at, front = watch.server.at, watch.front
    asked = watch.server.issue("asked")  # the newest, which is asked about
    assert watch.alarms() == {}
    subject = "/ocsp issuing-1"
    good = front.seen["/ocsp"][-2]  # the issuing authority's; the root's is the last
    watch.server.run(lambda: at.revoke(asked))
    assert watch.alarms() == {}

    def alarm(answer: Response | bytes) -> str:
        front.instead["/ocsp"] = answer if isinstance(answer, Response) else Response(200, answer)
        found = watch.alarms()[subject]
        front.instead.clear()
        assert watch.alarms() == {}
        return found

    assert "it says good, the records revoked" in alarm(good)
    assert "answered with status 503" in alarm(Response(503))
    assert "no OCSP answer" in alarm(b"garbage")
    assert "answered unauthorized" in alarm(b"\x30\x03\x0a\x01\x06")
    signature = ocsp.load_der_ocsp_response(good.body).signature
    assert "the signature is not the responder's" in alarm(good.body.replace(signature, _spoilt(signature)))
    assert "was not signed by the issuer's key" in alarm(_spoilt(good.body))  # at its end is the certificate
    watch.server.issue("newer")
    assert "about another certificate" in alarm(good)
    at.clock.advance(30 * 24 * HOUR)
    watch.server.run(at.status.schedule.run_due)
    watch.server.run(at.status.responders.run_due)
    watch.server.run(at.status.directory.refresh)
    assert watch.alarms() == {}
    assert "not fresh" in alarm(good)


def _spoilt(octets: bytes) -> bytes:
    return octets[:-1] + bytes((octets[-1] ^ 1,))
