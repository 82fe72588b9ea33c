"""A change of status that another process makes, as every worker of a started server tells it."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from pkiserver.audit import AuditLog
from pkiserver.authority.revocation import ByCertificate, Order, Revocations
from pkiserver.authority.status.cache import TRUSTED_SECONDS
from pkiserver.foundation.clock import SystemClock
from pkiserver.store.database import Database
from tests.support.instance import Instance
from tests.support.postgres import PostgresServer

ORDER = Order(actor="tester", approved_by="second")
SECONDS = 60
"""After so long a worker that still tells the old status has missed the change; it takes milliseconds."""


class Watcher(threading.Thread):
    """One connection, and so one worker: asks over and over, and notes each change of what it is told."""

    def __init__(self, port: int, body: bytes) -> None:
        super().__init__(daemon=True)
        self._port, self._body = port, body
        self.told: list[ocsp.OCSPCertStatus] = []
        self.stopping = False

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        while not self.stopping:
            connection.request("POST", "/ocsp", self._body, {"Content-Type": "application/ocsp-request"})
            answer = ocsp.load_der_ocsp_response(connection.getresponse().read())
            if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
                time.sleep(0.1)  # the responders are made in the first seconds of a new server
                continue
            if not self.told or self.told[-1] is not answer.certificate_status:
                self.told.append(answer.certificate_status)
            time.sleep(0.001)
        connection.close()


@contextlib.contextmanager
def watching(port: int, body: bytes, count: int) -> Iterator[list[Watcher]]:
    watchers = [Watcher(port, body) for _ in range(count)]
    for one in watchers:
        one.start()
    try:
        yield watchers
    finally:
        for one in watchers:
            one.stopping = True
        for one in watchers:
            one.join(SECONDS)


def until_told(watchers: list[Watcher], status: ocsp.OCSPCertStatus) -> None:
    """Wait until everybody is told this; with none of the speed that the bench measures."""
    until = time.monotonic() + SECONDS
    while any(one.told[-1:] != [status] for one in watchers):
        assert time.monotonic() < until, [one.told for one in watchers]
        time.sleep(0.005)


def follow(instance: Instance, url: str, workers: int, on_reactor: Callable[[Any], Any]) -> None:
    issued, issuer = x509.load_pem_x509_certificates(instance.cli("ca", "export-chain", "issuing").stdout.encode())[:2]
    builder = ocsp.OCSPRequestBuilder().add_certificate(issued, issuer, hashes.SHA256())
    body = builder.build().public_bytes(Encoding.DER)
    what = ByCertificate(issued.public_bytes(Encoding.DER))

    async def change() -> None:
        database = await Database.open(url)
        audit = AuditLog(database, node="test", worker="0", clock=SystemClock())
        revocations = Revocations(database, audit, SystemClock())
        await revocations.hold(what, ORDER)
        await revocations.release(what, ORDER)
        await revocations.hold(what, ORDER)
        await database.close()

    with watching(instance.layout.http_port, body, 4 * workers) as watchers:
        until_told(watchers, ocsp.OCSPCertStatus.GOOD)
        on_reactor(change)
        until_told(watchers, ocsp.OCSPCertStatus.REVOKED)
        time.sleep(3 * TRUSTED_SECONDS)  # who still had the old status in memory would tell it now
    for one in watchers:
        assert one.told[0] is ocsp.OCSPCertStatus.GOOD
        assert one.told[-1] is ocsp.OCSPCertStatus.REVOKED
        assert len(one.told) <= 4, "each change is told once, in order, and none comes back"


def test_two_workers_over_sqlite(tmp_path: Path, on_reactor: Callable[[Any], Any]) -> None:
    instance = Instance(tmp_path, workers=2)
    instance.start()
    try:
        follow(instance, f"sqlite:///{instance.layout.database}", 2, on_reactor)
    finally:
        instance.stop()


@pytest.mark.postgresql
def test_three_workers_over_postgresql(
    tmp_path: Path, on_reactor: Callable[[Any], Any], postgres_server: PostgresServer
) -> None:
    url = postgres_server.new_url()
    instance = Instance(tmp_path, workers=3, database=url)
    instance.start()
    try:
        follow(instance, url, 3, on_reactor)
    finally:
        instance.stop()
