"""A real TLS listener with EST's routes; behind it an engine small enough to see through, with real certificates."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet import reactor as _reactor

from pkiserver.authority.requests import (
    Claim,
    ClientCertificateEvidence,
    CodeEvidence,
    EnrollmentRequest,
    Evidence,
    IssuedCertificate,
    PasswordEvidence,
)
from pkiserver.authority.templates.model import Template
from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import load
from pkiserver.keys.algorithms import PrivateKey, SignatureScheme
from pkiserver.registration.codeform import new_code
from protocols.cms.signing import SignerProfile
from protocols.est.edge import routes
from protocols.est.messages import Base64Form
from protocols.est.ports import EstEngine, EstSettings, KeyKeeper, PackageSigner, Waiting
from protocols.web.factory import HttpServerFactory
from protocols.web.limits import WebLimits
from protocols.web.router import Router
from protocols.web.tls import ClientCertificates, TlsIdentity, TlsOptions, TlsServer, over_tls

reactor: Any = _reactor
SHARED_KEY = bytes(range(16))

TEMPLATE = """
name = "{name}"
issuer = "issuing"
keys = ["ec-p256", "rsa-2048"]
protocols = ["est"]
[validity]
duration = "90d"
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[[evidence]]
all = ["{evidence}"]
[est]
proof_linking = "{linking}"
server_keygen = {keygen}
"""


def now() -> dt.datetime:
    """The time when it is asked for: a long run of tests would meet expired certificates and CRLs else."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def template(name: str, *, evidence: str = "password", linking: str = "when_present", keygen: bool = True) -> Template:
    text = TEMPLATE.format(name=name, evidence=evidence, linking=linking, keygen=str(keygen).lower())
    return load(Template, text, name)


class Workshop:
    """Stands where the engine stands: one account, one-time codes, approvals by a set, two tiers of authorities."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.ca = self._self_signed("EST test CA")
        self.codes = {new_code(os.urandom).reveal(), new_code(os.urandom).reveal()}
        self.pending: set[str] = set()
        self.seen: list[EnrollmentRequest] = []
        self.generated_keys: list[PrivateKey] = []
        self.keeper: KeyKeeper | None = None
        self.all = {
            one.name: one
            for one in (
                template("device"),
                template("linked", linking="required"),
                template("certified", evidence="client_certificate"),
                template("no-keygen", keygen=False),
                template("approved"),
            )
        }

    def _self_signed(self, name: str) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(subject, subject, self.key.public_key(), 1)
        builder = builder.not_valid_before(now() - dt.timedelta(days=1)).not_valid_after(now() + dt.timedelta(days=999))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        ski = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        return builder.add_extension(ski, critical=False).sign(self.key, hashes.SHA256())

    def template(self, name: str) -> Template:
        if name not in self.all:
            raise Rejected.because(Refusal.UNKNOWN_TEMPLATE, f"there is no template named {name!r}")
        return self.all[name]

    def templates(self) -> tuple[Template, ...]:
        return tuple(one for one in self.all.values() if one.enabled and one.allows("est"))

    def served(self, authority: str) -> tuple[bytes, ...]:
        if authority != "issuing":
            raise Rejected.because(Refusal.UNKNOWN_AUTHORITY, f"there is no authority named {authority!r}")
        return (self.ca.public_bytes(serialization.Encoding.DER),)

    async def lists(self, authority: str) -> tuple[bytes, ...]:
        self.served(authority)
        builder = x509.CertificateRevocationListBuilder(self.ca.subject, now(), now() + dt.timedelta(days=1))
        return (builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER),)

    async def shared_key(self, identifier: bytes) -> Secret | None:
        return Secret(SHARED_KEY) if identifier == b"kek-1" else None

    async def generated(self, issued: IssuedCertificate, key: PrivateKey) -> None:
        self.generated_keys.append(key)

    async def package_signer(self, template: Template) -> PackageSigner | None:
        certificate = self.ca.public_bytes(serialization.Encoding.DER)
        return PackageSigner(SignerProfile(self.ca, SignatureScheme.parse("ecdsa-sha256")), self, (certificate,))

    async def sign_attributes(self, signed_attributes: bytes, scheme: SignatureScheme) -> bytes:
        return self.key.sign(signed_attributes, ec.ECDSA(hashes.SHA256()))

    async def before_work(self, template: Template, evidence: tuple[Evidence, ...], source: str) -> None:
        del template, evidence, source

    async def enroll(self, request: EnrollmentRequest, *claims: Claim) -> IssuedCertificate | Waiting:
        assert not claims
        self.seen.append(request)
        self._decide(request)
        if request.template in self.pending:
            return Waiting(1)
        der = self.issue(request)
        return IssuedCertificate(1, der, 1, (), "issuing", request.template)

    def _decide(self, request: EnrollmentRequest) -> None:
        for one in request.evidence:
            if isinstance(one, PasswordEvidence) and (one.name, one.password.reveal()) == ("me", b"secret"):
                return
            if isinstance(one, CodeEvidence) and one.code.reveal() in self.codes:
                self.codes.discard(one.code.reveal())
                return
            if isinstance(one, ClientCertificateEvidence):
                x509.load_der_x509_certificate(one.certificate).verify_directly_issued_by(self.ca)
                return
        raise Rejected.because(Refusal.NOT_AUTHENTICATED, "name and password, or an enrolment code, are needed")

    def issue(self, request: EnrollmentRequest, **extra: Any) -> bytes:
        builder = x509.CertificateBuilder(
            self.ca.subject, request.wishes.subject or x509.Name([]), request.public_key, x509.random_serial_number()
        )
        builder = builder.not_valid_before(now()).not_valid_after(now() + dt.timedelta(days=30))
        if request.wishes.sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(request.wishes.sans), critical=False)
        ski = x509.SubjectKeyIdentifier.from_public_key(request.public_key)
        builder = builder.add_extension(ski, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@attrs.frozen
class Site:
    """A started listener and a folder with what clients need: ca.crt, and files that tests make."""

    engine: Any
    port: int
    folder: Path

    @property
    def base(self) -> str:
        return f"https://localhost:{self.port}/.well-known/est"

    def curl(self, path: str, *arguments: str, status: int = 200, http: str = "-sS") -> bytes:
        """The body of an answer, whose status must be ``status``."""
        command = ["curl", http, "--cacert", str(self.folder / "ca.crt"), "-w", "\n%{http_code}", "--max-time", "20"]
        done = subprocess.run(
            [*command, *arguments, f"{self.base}/{path}"], capture_output=True, check=False, cwd=self.folder
        )
        assert done.returncode == 0, done.stderr.decode()
        body, _, code = done.stdout.rpartition(b"\n")
        assert code == str(status).encode(), done.stdout.decode(errors="replace")
        return body

    def post(self, path: str, der: bytes, *arguments: str, status: int = 200) -> bytes:
        (self.folder / "body.b64").write_bytes(base64.encodebytes(der))
        fixed = ("-H", "Content-Type: application/pkcs10", "--data-binary", f"@{self.folder / 'body.b64'}")
        return self.curl(path, *fixed, *arguments, status=status)

    def openssl(self, *arguments: str, data: bytes = b"") -> bytes:
        done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=False, cwd=self.folder)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def request(self, name: str, *options: str) -> bytes:
        """A fresh P-256 key in NAME.key and the DER request that OpenSSL makes for it."""
        self.openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key")
        return self.again(name, *options)

    def again(self, name: str, *options: str) -> bytes:
        return self.openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-outform", "DER", *options)

    def certificate(self, body: bytes, name: str) -> x509.Certificate:
        """The one certificate of a certs-only answer, read by OpenSSL and kept as NAME.crt."""
        der = base64.b64decode(body)
        pem = self.openssl("pkcs7", "-inform", "DER", "-print_certs", data=der)
        assert pem.count(b"BEGIN CERTIFICATE") == 1
        (self.folder / f"{name}.crt").write_bytes(pem)
        return x509.load_pem_x509_certificate(pem)


def _identity(engine: Workshop) -> TlsIdentity:
    key = ec.generate_private_key(ec.SECP256R1())
    return _listener(engine.ca.subject, engine.key, key, engine.key.public_key())


def listener_identity() -> tuple[TlsIdentity, bytes]:
    """A self-signed identity for localhost, and the PEM that clients are to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    identity = _listener(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), key, key, key.public_key())
    return identity, identity.chain_pem


def _listener(
    issuer: x509.Name, signer: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey, above: Any
) -> TlsIdentity:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), 2)
    builder = builder.not_valid_before(now() - dt.timedelta(days=1)).not_valid_after(now() + dt.timedelta(days=9))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    aki = x509.AuthorityKeyIdentifier.from_issuer_public_key(above)
    certificate = builder.add_extension(aki, critical=False).sign(signer, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return TlsIdentity(certificate.public_bytes(serialization.Encoding.PEM), pem)


@contextlib.contextmanager
def serve(engine: EstEngine, settings: EstSettings, identity: TlsIdentity, on_reactor: Any) -> Iterator[int]:
    """EST on a free port of this machine for as long as the block runs."""
    options = TlsOptions(client_certificates=ClientCertificates.REQUEST)

    async def start() -> Any:
        http = HttpServerFactory(Router(routes(engine, settings)), WebLimits(), SystemClock(), reactor)
        return reactor.listenTCP(0, over_tls(http, TlsServer(identity, options)), interface="127.0.0.1")

    port = on_reactor(start)
    try:
        yield port.getHost().port
    finally:

        async def stop() -> None:
            await port.stopListening()

        on_reactor(stop)


@pytest.fixture
def site(tmp_path: Path, on_reactor: Any) -> Iterator[Site]:
    engine = Workshop()
    (tmp_path / "ca.crt").write_bytes(engine.ca.public_bytes(serialization.Encoding.PEM))
    settings = EstSettings(default_template="device", base64_by_label={"no-keygen": Base64Form.SINGLE_LINE})
    with serve(engine, settings, _identity(engine), on_reactor) as port:
        yield Site(engine, port, tmp_path)
