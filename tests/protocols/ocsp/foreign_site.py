"""A CA that is not ours, a web server with its lists, and a responder of ours for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread

from pkiserver.authority.validation.services import ValidationServices, validation_services
from pkiserver.authority.validation.settings import KIND, ForeignCa
from pkiserver.foundation.tomlfile import dump
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.settings import ProviderSettings
from pkiserver.store.authority import templates as object_rows
from protocols.ocsp import edge
from protocols.web.factory import HttpServerFactory
from protocols.web.limits import WebLimits
from protocols.web.router import Router
from protocols.web.values import Method, Request, Response, Route
from tests.authority.status_world import status_world
from tests.protocols.status_server import Answer, StatusServer

reactor: Any = _reactor
DAY = timedelta(days=1)
ELSEWHERE = "/lists/elsewhere.crl"
"""What is there leads to another list."""
SILENT = "/lists/silent.crl"
"""Whoever asks for that gets no answer."""
ODD = "/lists/odd.crl"
"""What is there comes with an ETag in no text that we know."""


@attrs.define
class Other:
    """Another CA: what it issued, and its lists; ``now`` is when it began, by the clock of the server under test."""

    now: datetime
    key: ec.EllipticCurvePrivateKey = attrs.field(factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    number: int = 0

    @property
    def name(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Other CA")])

    def certificate(self) -> x509.Certificate:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        return (
            self._builder(self.name, self.key.public_key(), 1)
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False)
            .add_extension(usage, True)
            .sign(self.key, hashes.SHA256())
        )

    def leaf(self, serial: int) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"leaf {serial}")])
        return self._builder(name, ec.generate_private_key(ec.SECP256R1()).public_key(), serial).sign(
            self.key, hashes.SHA256()
        )

    def responder(
        self,
        request: bytes,
        *,
        usage: bool = True,
        signs: bool = True,
        serial: int = 77,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> bytes:
        asked = x509.load_der_x509_csr(request)
        assert asked.is_signature_valid
        builder = self._builder(asked.subject, asked.public_key(), serial, start, end)
        for extension in asked.extensions:
            if isinstance(extension.value, x509.KeyUsage) and not signs:
                agreement = x509.KeyUsage(False, False, False, False, True, False, False, False, False)
                builder = builder.add_extension(agreement, True)
            elif usage or not isinstance(extension.value, x509.ExtendedKeyUsage):
                builder = builder.add_extension(extension.value, extension.critical)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def crl(
        self,
        entries: dict[int, x509.ReasonFlags | None],
        *,
        base: int | None = None,
        point: str | None = None,
        start: datetime | None = None,
        lasting: timedelta = DAY,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> bytes:
        self.number += 1
        start = start or self.now
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(start)
            .next_update(start + lasting)
            .add_extension(x509.CRLNumber(self.number), False)
        )
        if base is not None:
            builder = builder.add_extension(x509.DeltaCRLIndicator(base), True)
        if point is not None:
            where = [x509.UniformResourceIdentifier(point)]
            shard = x509.IssuingDistributionPoint(where, None, True, False, None, False, False)
            builder = builder.add_extension(shard, True)
        for serial, reason in entries.items():
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(self.now - DAY)
            if reason is not None:
                entry = entry.add_extension(x509.CRLReason(reason), False)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(key or self.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def _builder(
        self,
        subject: x509.Name,
        public_key: Any,
        serial: int,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(serial)
            .not_valid_before(start or self.now - DAY)
            .not_valid_after(end or self.now + 365 * DAY)
        )


@attrs.define
class Site:
    """Our server, the other CA, and a web server with its lists."""

    server: StatusServer
    services: ValidationServices
    other: Other
    served: dict[str, bytes]
    base: str
    asked: list[str] = attrs.field(factory=list)

    def describe(self, *paths: str, name: str = "other", **more: Any) -> ForeignCa:
        """The CA with its lists at these paths."""
        pem = self.other.certificate().public_bytes(Encoding.PEM).decode()
        feeds = tuple(path if ":" in path else f"{self.base}{path}" for path in paths)
        ca = ForeignCa(name=name, certificate=pem, feeds=feeds, **more)

        async def put() -> None:
            def work(connection: Any) -> None:
                old = object_rows.get(connection, name, kind=KIND)
                expected = None if old is None else old.revision
                now = self.server.at.clock.now()
                object_rows.put(connection, name, dump(ca), now=now, expected=expected, kind=KIND)

            await self.server.at.world.database.write(work)
            await self.services.authorities.refresh()

        self.server.run(put)
        return ca

    def install(self, ca: ForeignCa, **more: Any) -> None:
        """A responder of ours for it; ``more`` as :meth:`Other.responder` has it."""
        made = self.server.run(
            lambda: self.services.responders.request(
                ca, key_type=KeyType.parse("ec-p256"), store="softhsm", actor="tester"
            )
        )
        certificate = self.other.responder(made.der, **more)
        self.server.run(lambda: self.services.responders.install(ca, certificate, actor="tester"))
        self.server.run(self.services.authorities.refresh)

    def fetch(self, ca: ForeignCa) -> int:
        count: int = self.server.run(lambda: self.services.feeds.look_now(ca))
        return count

    def answer(self, serial: int) -> tuple[Answer, ocsp.OCSPResponse]:
        builder = ocsp.OCSPRequestBuilder().add_certificate(
            self.other.leaf(serial), self.other.certificate(), hashes.SHA1()
        )
        body = builder.build().public_bytes(Encoding.DER)
        answer = self.server.ask("POST", "/ocsp", body, Content_Type="application/ocsp-request")
        return answer, ocsp.load_der_ocsp_response(answer.body)

    def status(self, serial: int) -> ocsp.OCSPCertStatus | ocsp.OCSPResponseStatus:
        _, found = self.answer(serial)
        if found.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return found.response_status
        return found.certificate_status


GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
TRY_LATER = ocsp.OCSPResponseStatus.TRY_LATER


@pytest.fixture
def site(tmp_path: Path, stores: tuple[ProviderSettings, ...], on_reactor: Callable[[Any], Any]) -> Iterator[Site]:
    with status_world(tmp_path, stores, on_reactor) as at:
        world = at.world
        services = validation_services(
            database=world.database, audit=world.audit, keys=world.keys, clock=at.clock, holder="test"
        )
        served: dict[str, bytes] = {}
        asked: list[str] = []

        def list_at(request: Request) -> Response | Deferred[Response]:
            asked.append(request.path)
            if request.path == SILENT:
                return Deferred()
            if request.path == ELSEWHERE:
                return Response(302, b"", "text/plain", (("Location", "/lists/full.crl"),))
            if request.path == ODD:
                return Response(200, served[ODD], "application/pkix-crl", (("ETag", '"\xff\xfe"'),))
            data = served.get(request.path)
            if data is None:
                return Response(404)
            tag = f'"{hash(data)}"'
            if request.headers.get("If-None-Match") == tag:
                return Response(304)
            return Response(200, data, "application/pkix-crl", (("ETag", tag),))

        routes = [
            *edge.routes(services.beside(at.status.directory), at.clock, edge.OcspSettings()),
            Route("list", "/lists/", frozenset({Method.GET}), list_at, prefix=True),
        ]
        factory = HttpServerFactory(Router(routes), WebLimits(), at.clock, reactor)
        port = blockingCallFromThread(reactor, reactor.listenTCP, 0, factory, 50, "127.0.0.1")
        server = StatusServer(at, port.getHost().port, tmp_path, on_reactor)
        yield Site(server, services, Other(at.clock.now()), served, f"{server.url}/lists/", asked)
        blockingCallFromThread(reactor, port.stopListening)
