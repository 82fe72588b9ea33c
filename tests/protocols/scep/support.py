"""A SCEP server over the real engine, with authorities and templates."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from sqlalchemy import update
from twisted.internet import reactor as _reactor

from pkiserver.authority.lifecycle.ceremonies import CA_DOORS, KeyChoice, NewAuthority
from pkiserver.authority.lifecycle.profile import CaProfile, parse_name
from pkiserver.foundation.clock import SystemClock
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.registration.guesssettings import GuessSettings
from pkiserver.runtime.config import DatabaseSettings, NodeSettings
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.runtime.services.scepport import ScepPort
from pkiserver.store.authority import templates
from pkiserver.store.certificates import CertificateState, by_fingerprint
from pkiserver.store.migrate import migrate
from pkiserver.store.schema.certificates import certificate as certificate_table
from protocols.scep.edge import routes
from protocols.scep.metrics import ScepMetrics
from protocols.scep.ports import ScepEngine, ScepSettings
from protocols.web.factory import HttpServerFactory
from protocols.web.limits import WebLimits
from protocols.web.router import Router
from tests.protocols.scep.device import Device
from tests.support.devicetemplates import device_template
from tests.support.engines import SETTINGS, put_authority, put_templates
from tests.support.keys import softhsm_token

reactor: Any = _reactor
SCEP_CA_DOORS = CA_DOORS | {Door.OPEN}
CODE = '[[evidence]]\nall = ["code"]\n'
APPROVED = '[[evidence]]\nall = ["self_signed"]\napproval = true\n'
STATIC = '[[evidence]]\nall = ["shared_secret"]\n'
RENEWAL = '[renewal]\nwindow = "120d"\n'


def template(
    name: str, rules: str = CODE, *, issuer: str = "issuing", scep: str = "", renewal: str = RENEWAL
) -> tuple[str, str]:
    """A template's name and its TOML."""
    text = device_template(
        name,
        issuer=issuer,
        keys=("rsa-2048", "ec-p256", "ed25519"),
        protocols=("scep",),
        usages=("digital_signature", "key_encipherment"),
        head=f'lint = "fatal"\n{renewal}[subject]\nothers = "ignore"',
        more=f"{rules}\n[scep]\n{scep}",
    )
    return name, text


@attrs.frozen
class World:
    """The open engine, the port over it, and a listener."""

    engine: Engine
    port: ScepPort
    metrics: ScepMetrics
    number: int
    folder: Path
    run: Callable[[Callable[[], Any]], Any]

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.number}/scep"

    def one(self, call: Any) -> Any:
        async def wait() -> Any:
            return await call

        return self.run(wait)

    def code(self, name: str = "device", subject: str | None = None) -> str:
        """A fresh one-time code."""
        import datetime as dt

        made = self.engine.codes.create(
            template=name,
            subject=None if subject is None else x509.Name.from_rfc4514_string(subject),
            sans=(),
            lifetime=dt.timedelta(hours=1),
            by="tester",
        )
        return str(self.one(made)[1].reveal_text())

    def put(self, name: str, text: str, revision: int | None = None) -> None:
        """A template into the database, new or in place of a revision."""
        now = self.engine.clock.now()
        self.one(self.engine.database.write(lambda c: templates.put(c, name, text, now=now, expected=revision)))
        self.one(self.engine.refresh())
        assert self.engine.templates.problems() == ()

    def curl(self, url: str, *arguments: str, status: int = 200) -> bytes:
        # on a machine that does much else a single answer can take half a minute; nothing here is about speed
        command = ["curl", "-sS", "-g", "--max-time", "240", "-w", "\n%{http_code}", *arguments, url]
        done = subprocess.run(command, capture_output=True, check=True)
        body, _, code = done.stdout.rpartition(b"\n")
        assert code == str(status).encode(), done.stdout[:500]
        return body

    def device(self, name: str, kind: str = "rsa", *, at: str = "device") -> Device:
        return Device(self, name, f"{self.base}/{at}", kind)


async def authority(engine: Engine, name: str, issuer: str | None, kind: str, store: str, **more: Any) -> None:
    doors = frozenset(more.pop("doors", CA_DOORS))
    key = KeyChoice(name=f"{name}-{secrets.token_hex(4)}", key_type=KeyType.parse(kind), store=store, doors=doors)
    settings = attrs.evolve(SETTINGS, **more)
    new = NewAuthority(name, parse_name(f"CN=SCEP {name},O=Example,C=CH"), CaProfile(), key, settings)
    await put_authority(engine, new, issuer)


@contextlib.contextmanager
def listening(engine: ScepEngine, settings: ScepSettings, metrics: ScepMetrics, on_reactor: Any) -> Iterator[int]:
    """SCEP on a free port for as long as the block runs."""

    async def start() -> Any:
        http = HttpServerFactory(Router(routes(engine, settings, metrics)), WebLimits(), SystemClock(), reactor)
        return reactor.listenTCP(0, http, interface="127.0.0.1")

    port = on_reactor(start)
    try:
        yield port.getHost().port
    finally:

        async def stop() -> None:
            await port.stopListening()

        on_reactor(stop)


@contextlib.contextmanager
def world(folder: Path, on_reactor: Any, texts: dict[str, str], authorities: Any = None) -> Iterator[World]:
    """An engine with a root, an EC and an RSA issuing authority, on SoftHSM and SQLite, and SCEP over it."""
    token = softhsm_token(folder)
    url = f"sqlite:///{folder / 'db'}"
    migrate(url)
    settings = NodeSettings(
        database=DatabaseSettings(url=url),
        state_dir=folder,
        key_store=(token,),
        node="scep",
        guesses=GuessSettings(exempt=("127.0.0.0/8",), template_rate=100_000),
    )
    opened: AbstractAsyncContextManager[Engine] = open_engine(settings)
    engine: Engine = on_reactor(opened.__aenter__)

    async def fill() -> None:
        await authority(engine, "root", None, "ec-p256", token.name)
        await authority(engine, "issuing", "root", "ec-p256", token.name)
        for call in authorities or ():
            await call(engine, token.name)
        await put_templates(engine, texts)

    on_reactor(fill)
    port, metrics = ScepPort(engine), ScepMetrics()
    try:
        with listening(port, ScepSettings(default_template="device"), metrics, on_reactor) as number:
            yield World(engine, port, metrics, number, folder, on_reactor)
    finally:
        on_reactor(lambda: opened.__aexit__(None, None, None))


def enrolled(scep: World, name: str, at: str = "device", kind: str = "rsa") -> tuple[Device, x509.Certificate]:
    device = scep.device(name, kind, at=at)
    (certificate,) = device.certificates(device.enroll(scep.code(at)))
    device.transaction = secrets.token_hex(16)
    return device, certificate


def record(scep: World, certificate: x509.Certificate) -> Any:
    digest = certificate.fingerprint(hashes.SHA256())
    return scep.one(scep.engine.database.read(lambda c: by_fingerprint(c, digest)))


def set_state(scep: World, certificate: x509.Certificate, state: CertificateState) -> None:
    table = certificate_table
    where = table.c.fingerprint == certificate.fingerprint(hashes.SHA256())
    change = update(table).where(where).values(state=state.value)
    assert scep.one(scep.engine.database.write(lambda c: c.execute(change).rowcount)) == 1
