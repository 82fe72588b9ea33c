"""Asking a responder over HTTP, as its tests do."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from tests.protocols.status_server import Answer, StatusServer, tool

OCSP_REQUEST = "application/ocsp-request"
UNSIGNED = {ocsp.OCSPResponseStatus.MALFORMED_REQUEST, ocsp.OCSPResponseStatus.UNAUTHORIZED}
HASHES = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}


def request(issued: bytes, issuer: bytes, *, hash_name: str = "sha256", nonce: bytes | None = None) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(
        x509.load_der_x509_certificate(issued), x509.load_der_x509_certificate(issuer), HASHES[hash_name]
    )
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def post(server: StatusServer, body: bytes, path: str = "/ocsp") -> Answer:
    return server.ask("POST", path, body, Content_Type=OCSP_REQUEST)


def read(answer: Answer) -> ocsp.OCSPResponse:
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/ocsp-response"
    return ocsp.load_der_ocsp_response(answer.body)


def change(server: StatusServer, **policy: Any) -> None:
    """Another OCSP policy for the issuing authority."""

    async def apply() -> None:
        authorities = server.at.world.road.authorities
        changed = attrs.evolve(server.at.issuing.settings, ocsp=attrs.evolve(server.at.issuing.settings.ocsp, **policy))
        authorities._all["issuing"] = attrs.evolve(server.at.issuing, settings=changed)
        await server.at.status.directory.refresh()

    server.run(apply)


def openssl(server: StatusServer, issued: bytes, chain: tuple[bytes, ...], *options: str) -> str:
    leaf, issuer, root = (
        server.file("leaf.pem", issued),
        server.file("issuer.pem", chain[0]),
        server.file("root.pem", chain[-1]),
    )
    command = ("openssl", "ocsp", *options, "-issuer", issuer, "-cert", leaf, "-CAfile", root)
    return tool(*command, "-url", f"{server.url}/ocsp")


def in_target(octets: bytes) -> str:
    return "/ocsp/" + quote(base64.b64encode(octets).decode(), safe="")
