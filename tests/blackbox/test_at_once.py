"""Many at once on a server with three workers: what can be had once is had once, whichever worker and protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import attrs
import pytest
from asn1crypto import cms
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12
from cryptography.x509.oid import NameOID

from tests.protocols.scep.device import CERT_POLL, PENDING, PKCS_REQ, PKI_STATUS, SUCCESS, Device
from tests.support.devicetemplates import device_template
from tests.support.instance import Instance

pytestmark = [pytest.mark.blackbox, pytest.mark.postgresql]
ENGINES = ["postgresql", "sqlite"] if os.environ.get("PKISERVER_TEST_FULL") else ["postgresql"]
RULES = {
    "at-once": '[[evidence]]\nall = ["code"]\n[[evidence]]\nall = ["password"]\n',
    "at-once-decided": '[[evidence]]\nall = ["code"]\napproval = true\n',
}


def template(name: str, rules: str) -> str:
    keys, protocols = ("rsa-2048", "ec-p256"), ("scep", "est")
    head = f'kind = "template"\n{rules}[subject]\nothers = "ignore"'
    return device_template(name, keys=keys, protocols=protocols, hosts=False, head=head)


@attrs.frozen
class Site:
    """A started server with two templates; an officer who decides, and one who gave out the codes."""

    instance: Instance
    folder: Path
    officer: ssl.SSLContext
    giver: ssl.SSLContext

    def api(self, method: str, path: str, body: Any = None, by: ssl.SSLContext | None = None) -> Any:
        where = ("localhost", self.instance.layout.api_port)
        connection = HTTPSConnection(*where, timeout=60, context=by or self.officer)
        try:
            octets = None if body is None else json.dumps(body)
            headers = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, f"/api/v1{path}", octets, headers)
            response = connection.getresponse()
            answer = json.loads(response.read())
            assert response.status < 300, answer
            return answer
        finally:
            connection.close()

    def code(self, template: str) -> str:
        return str(self.api("POST", "/challenges", {"template": template}, self.giver)["code"])

    def issued(self, template: str) -> set[str]:
        """Fingerprints of all certificates of a template."""
        return {one["fingerprint"] for one in self.api("GET", f"/certificates?template={template}&limit=1000")["items"]}

    def device(self, name: str, template: str) -> Device:
        return Device(self, name, f"{self.instance.layout.http_url}/scep/{template}")

    def curl(self, url: str, *arguments: str, status: int = 200) -> bytes:
        """What a device of the SCEP tests asks its world for."""
        command = ["curl", "-sS", "--max-time", "60", "-w", "\n%{http_code}", *arguments, url]
        body, _, code = subprocess.run(command, capture_output=True, check=True).stdout.rpartition(b"\n")
        assert code == str(status).encode(), body[:500]
        return body

    def scep(self, template: str, message: bytes) -> bytes:
        """Send a pkiMessage over a connection of its own."""
        connection = HTTPConnection("localhost", self.instance.layout.http_port, timeout=60)
        try:
            path = f"/scep/{template}?{urlencode({'operation': 'PKIOperation'})}"
            connection.request("POST", path, message, {"Content-Type": "application/x-pki-message"})
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
            return body
        finally:
            connection.close()

    def est(self, template: str, csr: bytes, who: str, password: str, source: str = "127.0.0.1") -> tuple[int, bytes]:
        """Enrol over a connection of its own, from an address of the loopback network."""
        context = ssl.create_default_context(cafile=str(self.instance.layout.root_certificate))
        where = ("localhost", self.instance.layout.https_port)
        connection = HTTPSConnection(*where, timeout=60, context=context, source_address=(source, 0))
        try:
            basic = base64.b64encode(f"{who}:{password}".encode()).decode()
            headers = {"Content-Type": "application/pkcs10", "Authorization": f"Basic {basic}"}
            path = f"/.well-known/est/{template}/simpleenroll"
            connection.request("POST", path, base64.b64encode(csr), headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@pytest.fixture(scope="module", params=ENGINES)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("at-once")
    if request.param == "postgresql":
        yield prepared(request.getfixturevalue("postgres_instance"), folder)
        return
    instance = Instance(folder, workers=3)
    instance.start()
    yield prepared(instance, folder)
    instance.stop()


def prepared(instance: Instance, folder: Path) -> Site:
    files = []
    for name, rules in RULES.items():
        file = folder / f"{name}.toml"
        file.write_text(template(name, rules))
        files.append(str(file))
    instance.cli("apply", *files, "--yes")
    return Site(instance, folder, officer(instance, folder), officer(instance, folder))


def officer(instance: Instance, folder: Path) -> ssl.SSLContext:
    """A new RA officer; how they connect."""
    name = f"officer-{secrets.token_hex(3)}"
    p12 = folder / f"{name}.p12"
    options = ("--role", "ra-officer", "--authority", "issuing", "--out", str(p12))
    made = json.loads(instance.cli("--json", "admin", "create", name, *options).stdout)
    opened = load_pkcs12(p12.read_bytes(), made["password"].encode())
    key: Any = opened.key
    assert opened.cert is not None
    pem = p12.with_suffix(".pem")
    octets = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem.write_bytes(octets + opened.cert.certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.create_default_context(cafile=str(instance.layout.root_certificate))
    context.load_cert_chain(pem)
    return context


def csr_of(name: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def fingerprint_in(pkcs7: bytes) -> str:
    """Of the certificate that an EST answer brings."""
    [found] = cms.ContentInfo.load(base64.b64decode(pkcs7))["content"]["certificates"]
    return hashlib.sha256(found.dump()).hexdigest()


def fingerprint_of(device: Device, body: bytes) -> str | None:
    """Of the certificate in a SCEP answer; None while it is pending."""
    answer = device.read(body)
    if answer.status == PENDING:
        return None
    [found] = device.certificates(answer)
    return found.fingerprint(hashes.SHA256()).hex()


def at_once(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Run all of them at the same time, each in a thread of its own."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        return [job.result() for job in [pool.submit(job) for job in jobs]]


def test_50_uses_of_one_challenge_over_scep_and_est_yield_one_certificate(site: Site) -> None:
    before, code = site.issued("at-once"), site.code("at-once")
    device = site.device("many", "at-once")
    envelope = device.envelope(device.csr(code))
    messages = [device.message(PKCS_REQ, envelope, transaction=secrets.token_hex(16)) for _ in range(25)]
    requests = [csr_of(f"est-{number}") for number in range(25)]
    jobs: list[Callable[[], Any]] = []
    for message, csr in zip(messages, requests, strict=True):
        jobs.append(lambda message=message: site.scep("at-once", message))
        jobs.append(lambda csr=csr: site.est("at-once", csr, "code", code))
    answers = at_once(jobs)
    scep = [device.read(body).status for body in answers[::2]]
    est = [status for status, _ in answers[1::2]]
    assert scep.count(SUCCESS) + est.count(200) == 1, (scep, est)
    assert set(est) <= {200, 401, 403, 409}, est
    assert PENDING not in scep
    assert len(site.issued("at-once") - before) == 1


def test_one_scep_transaction_on_all_workers_at_once_brings_one_certificate(site: Site) -> None:
    before, code = site.issued("at-once"), site.code("at-once")
    device = site.device("same", "at-once")
    message = device.message(PKCS_REQ, device.envelope(device.csr(code)))
    bodies = at_once([lambda: site.scep("at-once", message)] * 24)
    # told to ask again, where it was still being made: then it is there
    found = {fingerprint_of(device, body) for body in bodies} - {None}
    again = fingerprint_of(device, site.scep("at-once", message))
    assert found | {again} == {again}
    assert site.issued("at-once") - before == {again}


def test_all_who_poll_while_the_approval_arrives_get_the_same_certificate(site: Site) -> None:
    before = site.issued("at-once-decided")
    device = site.device("polling", "at-once-decided")
    code = site.code("at-once-decided")
    csr = csr_of("est-polling")
    est_code = site.code("at-once-decided")
    # put on all workers at once: one request each
    put = device.message(PKCS_REQ, device.envelope(device.csr(code)))
    first = at_once(
        [lambda: site.scep("at-once-decided", put), lambda: site.est("at-once-decided", csr, "code", est_code)] * 4
    )
    assert {fingerprint_of(device, body) for body in first[::2]} == {None}
    assert {status for status, _ in first[1::2]} == {202}
    waiting = [one for one in site.api("GET", "/requests")["items"] if one["template"] == "at-once-decided"]
    assert len(waiting) == 2
    poll = device.message(CERT_POLL, device.envelope(issuer_and_subject(device)))
    deadline = time.monotonic() + 60

    def over_scep() -> bytes:
        while time.monotonic() < deadline:
            if status_of(body := site.scep("at-once-decided", poll)) == SUCCESS:
                return body
        raise AssertionError("no certificate came")

    def over_est() -> str:
        while time.monotonic() < deadline:
            status, body = site.est("at-once-decided", csr, "code", est_code)
            if status == 200:
                return fingerprint_in(body)
            assert status == 202, body
        raise AssertionError("no certificate came")

    def approve() -> str:
        for one in waiting:
            site.api("POST", f"/requests/{one['number']}/approve", {})
        return ""

    answers = at_once([*[over_scep] * 6, *[over_est] * 6, approve])
    scep, est = {fingerprint_of(device, body) for body in answers[:6]}, set(answers[6:12])
    assert len(scep) == len(est) == 1
    assert site.issued("at-once-decided") - before == scep | est


def status_of(body: bytes) -> int:
    """What a SCEP answer says; its signature is looked at elsewhere."""
    signed = cms.ContentInfo.load(body)["content"]["signer_infos"][0]["signed_attrs"]
    attributes = {one["type"].dotted: one["values"][0].native for one in signed}
    status = int(attributes[PKI_STATUS])
    assert status in {SUCCESS, PENDING}, attributes
    return status


def issuer_and_subject(device: Device) -> bytes:
    """The content of a CertPoll (RFC 8894 section 3.3.3)."""
    from asn1crypto import x509 as asn1_x509
    from asn1crypto.core import Sequence

    class IssuerAndSubject(Sequence):  # type: ignore[misc]
        _fields = [("issuer", asn1_x509.Name), ("subject", asn1_x509.Name)]  # noqa: RUF012 - as asn1crypto wants it

    issuer = asn1_x509.Name.load(device.ca()[0].issuer.public_bytes())
    own = x509.load_pem_x509_certificate((device.folder / "self.crt").read_bytes())
    return bytes(
        IssuerAndSubject({"issuer": issuer, "subject": asn1_x509.Name.load(own.subject.public_bytes())}).dump()
    )


def guesses(site: Site, source: str) -> Iterator[int]:
    csr = csr_of("guess")
    for _ in range(18):
        yield site.est("at-once", csr, "demo", "a wrong password", source)[0]


def test_row_20_wrong_guesses_of_one_address_are_counted_over_all_workers(site: Site) -> None:
    source = f"127.0.{secrets.randbelow(250) + 1}.{secrets.randbelow(250) + 1}"
    answers = list(guesses(site, source))
    assert 5 <= answers.count(401) <= 9, answers  # five are free; slow machines earn one more with each second
    assert set(answers) == {401, 503}
    # another address is not slowed by it
    assert site.est("at-once", csr_of("other"), "demo", "a wrong password", "127.251.0.1")[0] == 401
