"""Many calls of one administrator, over one kept connection: what a table of a few hundred calls needs."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from twisted.internet.threads import deferToThread

from tests.protocols.management.world import Answer, Credential, World, check_answer


class Caller:
    """A connection that shows a certificate, or none."""

    def __init__(self, world: World, credential: Credential | None) -> None:
        context = ssl.create_default_context(cafile=str(world.folder / "chain.pem"))
        if credential is not None:
            context.load_cert_chain(_pem(world, credential))
        self._connection = HTTPSConnection("localhost", world.port, timeout=20, context=context)

    async def call(self, method: str, path: str, body: Any = None, *, checked: bool = True) -> Answer:
        """Call; the answer is checked against the document."""
        answer: Answer = await deferToThread(self._call, method, path, body)
        if checked:
            check_answer(method, path, answer)
        return answer

    def send(self, method: str, path: str, body: Any = None) -> None:
        """Send a call, and leave its answer."""
        octets = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if octets is None else {"Content-Type": "application/json"}
        self._connection.request(method, f"/api/v1{path}", octets, headers)

    def _call(self, method: str, path: str, body: Any) -> Answer:
        self.send(method, path, body)
        with self._connection.getresponse() as response:
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


@contextmanager
def calling(world: World, credential: Credential | None) -> Iterator[Caller]:
    """A caller, until the end of the block."""
    caller = Caller(world, credential)
    try:
        yield caller
    finally:
        caller.close()


def _pem(world: World, credential: Credential) -> str:
    opened = load_pkcs12(credential.file.read_bytes(), credential.password.encode())
    key: Any = opened.key
    assert opened.cert is not None
    octets = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    octets += opened.cert.certificate.public_bytes(Encoding.PEM)
    file = world.folder / f"{credential.file.stem}.pem"
    file.write_bytes(octets)
    return str(file)
