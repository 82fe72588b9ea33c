"""The address book on real listeners, over an engine with published certificates; clients are run from here."""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from twisted.internet import reactor as _reactor
from twisted.protocols.tls import TLSMemoryBIOFactory

from pkiserver.authority.requests import (
    EnrollmentRequest,
    IssuedCertificate,
    OperatorEvidence,
    ProofKind,
    ProofOfPossession,
    Wishes,
    spki_der,
)
from pkiserver.runtime.config import LdapSettings
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.httplimits import HttpLimits
from pkiserver.runtime.services.addressbook import AddressBookService
from pkiserver.runtime.services.handover import web_limits
from pkiserver.runtime.services.jobs import Jobs
from protocols.addressbook.factory import LdapServerFactory
from protocols.addressbook.limits import LDAP_PROTOCOLS
from protocols.web.factory import HttpServerFactory
from protocols.web.router import Router
from protocols.web.tls import ClientCertificates, TlsIdentity, TlsOptions, TlsServer
from tests.support.engines import engine_with

reactor: Any = _reactor
BASE = "dc=example,dc=com"
PASSWORD = "correct horse battery"
TEMPLATE = """
name = "{name}"
issuer = "issuing"
keys = ["ec-p256", "rsa-2048"]
protocols = ["cli", "est"]
lint = "off"
{more}
[validity]
duration = "90d"
[[evidence]]
all = ["operator"]
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[[subject.parts]]
attribute = "organization"
from = "request"
[[sans.parts]]
kind = "mail"
from = "request"
max = 4
[[sans.parts]]
kind = "smtp_utf8"
from = "request"
[key_usage]
usages = [{usages}]
[extended_key_usage]
usages = ["{purpose}"]
[publication]
{publication}
"""


def template(
    name: str,
    publication: str,
    *,
    usages: str = '"digital_signature", "key_encipherment", "key_agreement"',
    purpose: str = "email_protection",
) -> str:
    return TEMPLATE.format(name=name, more="", usages=usages, purpose=purpose, publication=publication)


TEMPLATES = {
    "smime": template("smime", "addressbook = true"),
    "history": template("history", 'addressbook = true\nhistory = true\ncertificates = "all"'),
    "private": template("private", "addressbook = false"),
    "sign": template("sign", "addressbook = true", usages='"digital_signature"'),
    "client": template("client", "addressbook = false", purpose="client_auth"),
}


@attrs.define
class Site:
    """Everything that a test of the address book needs."""

    engine: Engine
    service: AddressBookService
    ldap: int
    ldaps: int
    http: int
    folder: Path
    on_reactor: Callable[..., Any]
    keys: dict[str, Any] = attrs.field(factory=dict)

    @property
    def url(self) -> str:
        return f"ldap://127.0.0.1:{self.ldap}"

    def run(self, *command: str, rc: int | None = 0, data: bytes = b"", **environment: str) -> str:
        """Run a client; its exit code must be ``rc`` (None: any)."""
        env = {**os.environ, "LDAPTLS_CACERT": str(self.folder / "ca.pem"), "LDAPNOINIT": "", **environment}
        env.pop("LDAPNOINIT")
        done = subprocess.run(
            command, input=data, capture_output=True, env=env, timeout=30, check=False, cwd=self.folder
        )
        output = done.stdout.decode(errors="replace")
        assert rc is None or done.returncode == rc, (done.returncode, output, done.stderr.decode(errors="replace"))
        return output if rc == 0 else output + done.stderr.decode(errors="replace")

    def search(
        self, filter_: str, *attributes: str, base: str = BASE, options: tuple[str, ...] = (), rc: int = 0
    ) -> str:
        """What ldapsearch prints, anonymously."""
        return self.run(
            "ldapsearch",
            "-LLL",
            "-o",
            "ldif-wrap=no",
            "-x",
            "-H",
            self.url,
            "-b",
            base,
            *options,
            filter_,
            *attributes,
            rc=rc,
        )

    def names(self, filter_: str, **options: Any) -> list[str]:
        """The names of the entries found."""
        return sorted(re.findall(r"^dn: uid=([^,]*)", self.search(filter_, "1.1", **options), re.MULTILINE))

    def connect(self) -> socket.socket:
        """A plain connection."""
        one = socket.create_connection(("127.0.0.1", self.ldap), timeout=10)
        one.settimeout(10)
        return one

    def issue(self, name: str, *mails: str, template: str = "smime", kind: str = "ec") -> IssuedCertificate:
        """A certificate; its key is kept under its serial."""
        key = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
        issued: IssuedCertificate = self.on_reactor(lambda: enrolled(self.engine, name, mails, template, key))
        self.keys[f"{issued.serial:x}"] = key
        self.settle()
        return issued

    def settle(self) -> None:
        """Let the cache see what changed."""
        self.on_reactor(self.service.book.poll)

    def do(self, make: Callable[[], Any]) -> Any:
        """Run a coroutine on the reactor."""
        return self.on_reactor(make)

    def pem_pair(self, issued: IssuedCertificate, name: str) -> tuple[str, str]:
        """Certificate and key as files."""
        key = self.keys[f"{issued.serial:x}"]
        certificate, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        parsed = x509.load_der_x509_certificate(issued.der)
        certificate.write_bytes(parsed.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return str(certificate), str(private)


def _mail_name(address: str) -> x509.GeneralName:
    if address.isascii():
        return x509.RFC822Name(address)
    text = address.encode()
    return x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9"), bytes((0x0C, len(text))) + text)


async def enrolled(
    engine: Engine, name: str, mails: tuple[str, ...], template: str = "smime", key: Any = None
) -> IssuedCertificate:
    """A certificate for these addresses."""
    own = key or ec.generate_private_key(ec.SECP256R1())
    request = EnrollmentRequest(
        template=template,
        public_key=own.public_key(),
        spki=spki_der(own.public_key()),
        proof=ProofOfPossession(ProofKind.GENERATED_HERE, verified=True),
        wishes=Wishes(
            subject=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
            sans=tuple(map(_mail_name, mails)),
        ),
        evidence=(OperatorEvidence("test"),),
        protocol="cli",
        source="test",
        request_id="test",
    )
    issued = await engine.enroll(request)
    assert isinstance(issued, IssuedCertificate)
    return issued


def certificates_in(ldif: str) -> list[bytes]:
    """The certificates that ldapsearch printed."""
    return [base64.b64decode(one) for one in re.findall(r"^userCertificate;binary:: (.*)$", ldif, re.MULTILINE)]


def _identity() -> tuple[TlsIdentity, bytes]:
    """A certificate for localhost below a root, as GnuTLS wants it, and the root's PEM."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = datetime.now(UTC)
    pem = serialization.Encoding.PEM

    def certificate(name: str, public: Any, *, ca: bool) -> x509.Certificate:
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test root")])
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        # libldap takes "localhost" for the machine's own name
        hosts = {"localhost", socket.gethostname(), socket.getfqdn()}
        names = x509.SubjectAlternativeName([x509.DNSName(host) for host in sorted(hosts)])
        return builder.add_extension(names, critical=False).sign(root_key, hashes.SHA256())

    root = certificate("test root", root_key.public_key(), ca=True)
    own = certificate("localhost", key.public_key(), ca=False)
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return TlsIdentity(own.public_bytes(pem), private), root.public_bytes(pem)


@asynccontextmanager
async def site_with(folder: Path, settings: LdapSettings, on_reactor: Any) -> AsyncIterator[Site]:
    """A site that lasts as long as the block."""
    identity, trusted = _identity()
    (folder / "ca.pem").write_bytes(trusted)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(engine_with(folder, TEMPLATES))
        service = AddressBookService(engine, settings)
        jobs = Jobs()
        jobs.begin(service.jobs())
        stack.push_async_callback(jobs.end)
        options = TlsOptions(client_certificates=ClientCertificates.REQUEST, protocols=LDAP_PROTOCOLS)
        server = TlsServer(identity, options)
        plain = LdapServerFactory(service.service, reactor, server)
        secure = LdapServerFactory(service.service, reactor, None)
        web = HttpServerFactory(Router(service.routes()), web_limits(HttpLimits()), engine.clock, reactor)
        ports = [
            reactor.listenTCP(0, factory, interface="127.0.0.1")
            for factory in (plain, TLSMemoryBIOFactory(server, False, secure), web)
        ]

        async def close() -> None:
            for port in ports:
                await port.stopListening()
            await plain.drain(1.0)
            await secure.drain(1.0)

        stack.push_async_callback(close)
        ldap, ldaps, http = (port.getHost().port for port in ports)
        yield Site(engine, service, ldap, ldaps, http, folder, on_reactor)
