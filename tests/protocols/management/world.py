"""The API on loopback over a real engine, its administrators with their PKCS#12 files, and curl to talk to it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
import jsonschema
from cryptography import x509
from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread

from pkiserver.registration.admincertificates import AdministratorCertificates
from pkiserver.registration.administrators import Administrator, Role
from pkiserver.runtime.engine import Engine
from protocols.management.edge import CALLS, Api
from protocols.management.openapi import document
from protocols.management.site import ApiFactory, ApiLimits, ApiSite
from protocols.web.tls import ClientCertificates, TlsIdentity, TlsOptions, TlsServer
from tests.runtime.nodes import certificate
from tests.support.engines import engine_with, template_text

reactor: Any = _reactor
DOCUMENT = document(CALLS)
PASSWORD = '[[evidence]]\nall = ["password"]\n'
TWO = '[[evidence]]\nall = ["password"]\napproval = true\napprovals = 2\napprovers = ["officers"]\n'
SEATS = '[seats]\nenabled = true\nslots = ["learn_once"]\n'
TEXTS = {
    "open": template_text("open", PASSWORD),
    "two": template_text("two", TWO),
    "seated": template_text("seated", PASSWORD, SEATS),
    "code": template_text("code", '[[evidence]]\nall = ["code"]\n'),
}


@attrs.frozen
class Answer:
    """What curl got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> set[str]:
        """The reasons of a problem."""
        return {reason["code"] for reason in self.json["reasons"]}


@attrs.frozen
class Credential:
    """An administrator's file."""

    file: Path
    password: str
    der: bytes


class World:
    """A started API. Every answer to a path of the document is checked against it."""

    def __init__(self, engine: Engine, folder: Path, port: int) -> None:
        self.engine = engine
        self.folder = folder
        self.port = port
        self.people: dict[str, Credential] = {}

    async def person(self, name: str, *roles: Role, **more: Any) -> Credential:
        """A new administrator with a certificate."""
        await self.engine.administrators.create(Administrator(name, frozenset(roles), **more), by="tester")
        return await self.certify(name)

    async def certify(self, name: str) -> Credential:
        road = self.engine.road
        maker = AdministratorCertificates(road.authorities, road.preparer, road.issuer, self.engine.clock)
        made = await maker.issue(name, "issuing", by="tester")
        await self.engine.administrators.bind(name, made.certificate, by="tester")
        file = self.folder / f"{name}-{len(list(self.folder.glob('*.p12')))}.p12"
        file.write_bytes(made.pkcs12)
        self.people[name] = Credential(file, made.password.reveal_text(), made.certificate)
        return self.people[name]

    async def call(
        self, who: str | Credential | None, method: str, path: str, body: Any = None, *more: str, checked: bool = True
    ) -> Answer:
        """Call the API by curl."""
        credential = self.people[who] if isinstance(who, str) else who
        command = ["curl", "-sS", "--max-time", "20", "--cacert", str(self.folder / "chain.pem"), "-X", method, "-i"]
        if credential is not None:
            command += ["--cert-type", "P12", "--cert", f"{credential.file}:{credential.password}"]
        if body is not None:
            octets = body if isinstance(body, str) else json.dumps(body)
            command += ["--data-binary", octets]
            if not any(one.lower().startswith("content-type") for one in more):
                command += ["-H", "Content-Type: application/json"]
        command += [*more, f"https://localhost:{self.port}/api/v1{path}"]
        done = await deferToThread(subprocess.run, command, capture_output=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        answer = _answer(done.stdout)
        if checked:
            check_answer(method, path, answer)
        return answer

    async def page(self, who: str, form: dict[str, str] | str | None = None, *more: str, tail: str = "") -> Answer:
        """The page of challenges, as a browser asks for it: shown, or its form sent."""
        credential = self.people[who]
        own = f"https://localhost:{self.port}"
        command = ["curl", "-sS", "--max-time", "20", "--cacert", str(self.folder / "chain.pem"), "-i"]
        command += ["--cert-type", "P12", "--cert", f"{credential.file}:{credential.password}"]
        if form is not None:
            octets = form if isinstance(form, str) else urlencode(form)
            same = ("-H", f"Origin: {own}", "-H", "Sec-Fetch-Site: same-origin")
            command += ["--data-binary", octets, *(more or same)]
        command.append(f"{own}/certsrv/mscep_admin{tail}")
        done = await deferToThread(subprocess.run, command, capture_output=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return _answer(done.stdout)

    async def ok(self, who: str, method: str, path: str, body: Any = None) -> Any:
        """As :meth:`call`; what it says, where it succeeds."""
        answer = await self.call(who, method, path, body)
        assert answer.status < 300, answer.body
        return answer.json if answer.body else None


def _answer(octets: bytes) -> Answer:
    head, _, body = octets.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)


def operation_for(method: str, path: str) -> dict[str, Any] | None:
    """What the document says about a path as called."""
    wanted = ("/api/v1" + path.partition("?")[0]).split("/")
    for template, methods in DOCUMENT["paths"].items():
        parts = template.split("/")
        fits = len(parts) == len(wanted) and all(
            a == b or a.startswith("{") for a, b in zip(parts, wanted, strict=True)
        )
        if fits and method.lower() in methods:
            found: dict[str, Any] = methods[method.lower()]
            return found
    return None


def check_answer(method: str, path: str, answer: Answer) -> None:
    """The answer is what the document says it can be."""
    operation = operation_for(method, path)
    if operation is None:
        assert answer.status in {404, 405}, (method, path, answer)
        return
    said = operation["responses"].get(str(answer.status))
    assert said is not None, (
        f"{method} {path} answers {answer.status}, which the document does not know: {answer.body!r}"
    )
    if "content" not in said:
        assert answer.body == b""
        assert "content-type" not in answer.headers
        return
    [(content_type, content)] = said["content"].items()
    assert answer.headers["content-type"] == content_type
    jsonschema.Draft202012Validator(
        {**content["schema"], "components": DOCUMENT["components"]},
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    ).validate(answer.json)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get("server", "pkiserver") == "pkiserver"


@asynccontextmanager
async def opened(
    folder: Path, *, limits: ApiLimits | None = None, url: str | None = None, clock: Any = None
) -> AsyncIterator[World]:
    """An engine, the API on loopback, and administrators ada (configures), ruth and rolf (officers), olga, aud."""
    certificate(folder, "localhost")
    async with engine_with(folder, TEXTS, url=url, clock=clock) as engine:
        identity = TlsIdentity((folder / "chain.pem").read_bytes(), (folder / "key.pem").read_bytes())
        server = TlsServer(identity, TlsOptions(client_certificates=ClientCertificates.REQUEST))
        site = ApiSite(Api(engine).resource(), limits or ApiLimits(), reactor)
        factory = ApiFactory(server, site)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        world = World(engine, folder, port.getHost().port)
        try:
            yield world
        finally:
            await port.stopListening()
            await factory.drain(0)


async def with_people(world: World) -> None:
    """One of each role, and a second officer."""
    officers = frozenset({"officers"})
    await world.person("ada", Role.ADMINISTRATOR)
    await world.person("ruth", Role.RA_OFFICER, groups=officers)
    await world.person("rolf", Role.RA_OFFICER, groups=officers)
    await world.person("olga", Role.OPERATOR, templates=frozenset({"open", "seated"}))
    await world.person("aud", Role.AUDITOR)


def common_name(pem: str) -> str:
    """Of a certificate."""
    return x509.load_pem_x509_certificate(pem.encode()).subject.rfc4514_string()
