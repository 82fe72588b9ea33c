"""Time-stamping units over a small certificate server with a clock that tests move, behind a real HTTP listener."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet import reactor as _reactor
from twisted.internet.threads import blockingCallFromThread

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.settings import ProviderSettings
from pkiserver.timestamping.administration import UnitAdministration
from pkiserver.timestamping.services import TimestampServices, timestamp_services
from pkiserver.timestamping.timesettings import TimeSettings, TimeSourceKind
from pkiserver.timestamping.unit import TimestampUnit
from protocols.timestamp.access import AccessControl, Client
from protocols.timestamp.directory import UnitDirectory
from protocols.timestamp.edge import TimestampEdge, routes
from protocols.timestamp.service import TimestampService
from protocols.web.factory import HttpServerFactory
from protocols.web.limits import WebLimits
from protocols.web.router import Router
from tests.authority.status_world import StatusWorld, status_world
from tests.support.clock import FakeClock

reactor: Any = _reactor
POLICY = "2.999.3161.1"
OTHER_POLICY = "2.999.3161.2"
QUERY = "application/timestamp-query"
SYSTEM = TimeSettings(sources=(TimeSourceKind.SYSTEM,), verdict_validity=timedelta(days=3650))


@attrs.define
class FakeClients:
    """Knows one password and counts how often it was asked."""

    asked: int = 0

    async def identify(self, evidence: Any, source: str) -> Client:
        self.asked += 1
        password = getattr(evidence, "password", None)
        if password is not None and (evidence.name, password.reveal_text()) == ("alice", "secret"):
            return Client("alice", frozenset({"signers"}))
        if getattr(evidence, "certificate", b"") == b"alice's certificate":
            return Client("alice", frozenset({"signers"}))
        raise Rejected.because(Refusal.NOT_AUTHENTICATED, "nobody we know")


@attrs.frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@attrs.frozen
class TimestampWorld:
    """Services of one process over a world; the HTTP side may be missing."""

    at: StatusWorld
    services: TimestampServices
    directory: UnitDirectory
    service: TimestampService
    clients: FakeClients
    edge: TimestampEdge
    folder: Path
    run: Callable[[Any], Any]
    port: int = 0

    @property
    def clock(self) -> FakeClock:
        return self.at.clock

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def root(self) -> str:
        """The path of the root certificate's PEM file."""
        return str(self.folder / "root.pem")

    async def unit(self, name: str, **more: Any) -> TimestampUnit:
        """Make a unit with key and certificate, and serve it."""
        unit = TimestampUnit(name=name, issuer="issuing", **({"policies": (POLICY, OTHER_POLICY)} | more))
        administration = UnitAdministration(self.at.world.database, self.at.world.audit, self.clock)
        await administration.create(unit, by="tester")
        await self.keep()
        assert self.directory.get(name) is not None, self.directory.problems() + self.services.keeper.problems()
        return unit

    async def keep(self) -> None:
        """What the jobs do."""
        await self.services.library.refresh()
        await self.services.keeper.run_due()
        await self.directory.refresh()
        await self.services.take_turns()

    def make(self, name: str, **more: Any) -> TimestampUnit:
        unit: TimestampUnit = self.run(lambda: self.unit(name, **more))
        return unit

    def ask(self, path: str, body: bytes, method: str = "POST", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        fields = {"Content-Type": QUERY} | {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {name: value for name, value in fields.items() if value})
        answer = connection.getresponse()
        found = Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        connection.close()
        return found

    def stamp(self, name: str, query: bytes) -> bytes:
        """The token's answer, straight from the service."""
        active = self.directory.get(name)
        assert active is not None
        found: bytes = self.run(lambda: self.service.answer(active, query))
        return found


async def another(at: StatusWorld, holder: str, settings: TimeSettings = SYSTEM) -> TimestampServices:
    """The services of one more process over the same database."""
    services = timestamp_services(
        database=at.world.database,
        audit=at.world.audit,
        keys=at.world.keys,
        authorities=at.world.road.authorities,
        preparer=at.world.road.preparer,
        issuer=at.world.road.issuer,
        clock=at.clock,
        holder=holder,
        settings=settings,
    )
    await services.watch.run_due()
    await services.serials.run_due()
    return services


def over(at: StatusWorld, services: TimestampServices, folder: Path, run: Callable[[Any], Any]) -> TimestampWorld:
    world = at.world
    directory = UnitDirectory(services.library, world.database, world.keys, world.road.authorities, at.clock)
    service = TimestampService(services.watch, services.serials, services.log, services.ordering)
    clients = FakeClients()
    access = AccessControl(clients, at.clock)
    edge = routes(directory, service, access)[0].handler.__self__  # type: ignore[attr-defined]
    return TimestampWorld(at, services, directory, service, clients, edge, folder, run)


@contextmanager
def timestamp_world(
    folder: Path, stores: tuple[ProviderSettings, ...], run: Callable[[Any], Any]
) -> Iterator[TimestampWorld]:
    """A started world, listening."""
    with status_world(folder, stores, run) as at:
        services: TimestampServices = run(lambda: another(at, "one"))
        made = over(at, services, folder, run)
        root = at.world.road.authorities.get("root").current.certificate.der
        pem = x509.load_der_x509_certificate(root).public_bytes(Encoding.PEM)
        (folder / "root.pem").write_bytes(pem)
        edge = routes(made.directory, made.service, made.edge.access)
        factory = HttpServerFactory(Router(edge), WebLimits(), at.clock, reactor)
        port = blockingCallFromThread(reactor, reactor.listenTCP, 0, factory, 50, "127.0.0.1")
        try:
            yield attrs.evolve(made, port=port.getHost().port)
        finally:
            blockingCallFromThread(reactor, port.stopListening)
            run(services.stop)


def tool(*command: str, check: bool = True, cwd: Path | None = None) -> str:
    """What a program says, on both outputs."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=cwd)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
