"""``pkiserver responder`` as an administrator runs it: a CA of somebody else's, its lists and a responder for it."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from pkiserver.runtime.configfile import load_settings
from pkiserver.runtime.services.composition import open_application
from protocols.web.headers import Headers
from protocols.web.values import Peer, Request
from tests.protocols.ocsp.foreign_site import Other
from tests.support.commands import configured, run, run_json
from tests.support.keys import software_store

TEXT = 'kind = "foreign-ca"\nname = "other"\nunlisted = "good"\nfeeds = ["{feed}"]\ncertificate = """{pem}"""\n'


async def first_answer(config: Path, request: bytes) -> ocsp.OCSPResponse:
    """What a server over this configuration answers before any of its jobs has run."""
    async with open_application(load_settings(config), "1") as application:
        [route] = [one for one in application.http if (one.path, one.prefix) == ("/ocsp", False)]
        peer = Peer("127.0.0.1", 1, None)
        asked = Request("POST", "/ocsp", "/ocsp", "", "", Headers([]), request, peer, "0" * 16)
        found = route.handler(asked)
        answer = await found if isinstance(found, Awaitable) else found
        return ocsp.load_der_ocsp_response(answer.body)


def test_a_foreign_ca_from_its_document_to_a_feed_that_began_anew(
    tmp_path: Path, on_reactor: Callable[[Any], Any]
) -> None:
    config = configured(tmp_path, software_store(tmp_path))
    other, on_disk = Other(datetime.now(UTC).replace(microsecond=0), number=40), tmp_path / "other.crl"
    feed = f"file://{on_disk}"
    document = tmp_path / "other.toml"
    document.write_text(TEXT.format(feed=feed, pem=other.certificate().public_bytes(Encoding.PEM).decode()))
    run(config, "apply", document, "--yes")
    [row] = run_json(config, "responder", "list")
    assert (row["responder until"], row["lists until"]) == (None, None)
    assert "has not given a list yet" in row["problems"]
    asked, answer = tmp_path / "responder.csr", tmp_path / "responder.der"
    run(config, "responder", "csr", "other", "--out", asked)
    request = x509.load_pem_x509_csr(asked.read_bytes()).public_bytes(Encoding.DER)
    answer.write_bytes(other.responder(request))
    assert "answers for other until" in run(config, "responder", "install", "other", answer)
    on_disk.write_bytes(other.crl({5: None}))
    assert run_json(config, "responder", "fetch", "other")["changed"] == 1
    question = ocsp.OCSPRequestBuilder().add_certificate(other.leaf(5), other.certificate(), hashes.SHA1())
    octets = question.build().public_bytes(Encoding.DER)
    found = on_reactor(lambda: first_answer(config, octets))
    assert found.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL, "from the first moment on"
    assert found.certificate_status is ocsp.OCSPCertStatus.REVOKED
    other.number = 0
    on_disk.write_bytes(other.crl({6: None, 7: None}))
    told = run(config, "responder", "fetch", "other", code=1)
    assert "list 1 of" in told
    command = told.split("if the numbers began anew: ")[1].split("\n")[0]
    assert command == f"pkiserver responder reset other --feed {feed}"
    run(config, *shlex.split(command)[1:])
    [row] = run_json(config, "responder", "feeds", "other")
    assert (row["number"], row["entries"], row["problem"]) == (1, 2, "")
