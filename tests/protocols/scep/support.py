"""A SCEP server over the real engine, and a device for which openssl makes keys, requests, envelopes, signatures.

What no command line can do, the attributes of a pkiMessage, is put together with asn1crypto, which the server does not
use for messages.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
from asn1crypto import algos, cms, core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from sqlalchemy import update
from twisted.internet import reactor as _reactor

from pkiserver.authority.lifecycle.ceremonies import CA_DOORS, KeyChoice, NewAuthority
from pkiserver.authority.lifecycle.certify import Actor
from pkiserver.authority.lifecycle.profile import CaProfile, parse_name
from pkiserver.authority.settings import AuthoritySettings, Publication
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
from tests.support.keys import softhsm_token

reactor: Any = _reactor
ACTOR = Actor("tester", "scep")
SETTINGS = AuthoritySettings(publication=Publication(base_url="http://pki.example"))
PKCS_REQ, RENEWAL_REQ, CERT_POLL, GET_CERT, GET_CRL = 19, 17, 20, 21, 22
SUCCESS, FAILURE, PENDING = 0, 2, 3
BAD_ALG, BAD_CHECK, BAD_REQUEST, BAD_TIME, BAD_CERT_ID = range(5)
_OID = "2.16.840.1.113733.1.9."
MESSAGE_TYPE, PKI_STATUS, FAIL_INFO, SENDER_NONCE, RECIPIENT_NONCE, TRANSACTION_ID = (f"{_OID}{n}" for n in range(2, 8))
FAIL_TEXT = "1.3.6.1.5.5.7.24.1"

TEMPLATE = """
name = "{name}"
issuer = "{issuer}"
keys = ["rsa-2048", "ec-p256", "ed25519"]
protocols = ["scep"]
lint = "fatal"
[validity]
duration = "90d"
{renewal}
[subject]
others = "ignore"
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[[sans.parts]]
kind = "dns"
from = "request"
[key_usage]
usages = ["digital_signature", "key_encipherment"]
[extended_key_usage]
usages = ["client_auth"]
{rules}
[scep]
{scep}
"""
CODE = '[[evidence]]\nall = ["code"]\n'
APPROVED = '[[evidence]]\nall = ["self_signed"]\napproval = true\n'
STATIC = '[[evidence]]\nall = ["shared_secret"]\n'
RENEWAL = '[renewal]\nwindow = "120d"\n'


def template(
    name: str, rules: str = CODE, *, issuer: str = "issuing", scep: str = "", renewal: str = RENEWAL
) -> tuple[str, str]:
    """A template's name and its TOML."""
    return name, TEMPLATE.format(name=name, issuer=issuer, rules=rules, scep=scep, renewal=renewal)


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
    if issuer is None:
        await engine.road.ceremonies.create_root(new, ACTOR)
    else:
        await engine.road.ceremonies.create_subordinate(new, ACTOR, issuer=issuer)


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
        now = engine.clock.now()
        for name, text in texts.items():
            await engine.database.write(lambda c, n=name, t=text: templates.put(c, n, t, now=now, expected=None))
        await engine.refresh()
        assert engine.templates.problems() == ()

    on_reactor(fill)
    port, metrics = ScepPort(engine), ScepMetrics()
    try:
        with listening(port, ScepSettings(default_template="device"), metrics, on_reactor) as number:
            yield World(engine, port, metrics, number, folder, on_reactor)
    finally:
        on_reactor(lambda: opened.__aexit__(None, None, None))


SCEP_CA_DOORS = CA_DOORS | {Door.OPEN}


@attrs.frozen
class Answer:
    """A CertRep, verified by openssl with the certificate that GetCACert gave out."""

    raw: bytes = attrs.field(repr=False)
    status: int
    transaction_id: str
    sender_nonce: bytes
    recipient_nonce: bytes | None
    fail_info: int | None
    fail_text: str
    envelope: bytes | None = attrs.field(repr=False)

    @property
    def cipher(self) -> str:
        """The content cipher of the envelope."""
        assert self.envelope is not None
        sealed = cms.ContentInfo.load(self.envelope)["content"]["encrypted_content_info"]
        return str(sealed["content_encryption_algorithm"]["algorithm"].dotted)

    @property
    def digest(self) -> str:
        return str(self._signer["digest_algorithm"]["algorithm"].native)

    @property
    def _signer(self) -> Any:
        return cms.ContentInfo.load(self.raw)["content"]["signer_infos"][0]


def attribute(oid: str, value: Any) -> Any:
    return cms.CMSAttribute({"type": oid, "values": [value]})


class Device:
    """A client with a key and a self-signed certificate, in a folder."""

    def __init__(self, world: World, name: str, url: str, kind: str = "rsa") -> None:
        self.world, self.name, self.url = world, name, url
        self.folder = world.folder / f"{name}-{secrets.token_hex(3)}"
        self.folder.mkdir()
        self.new_key("key", kind)
        self.openssl("req", "-x509", "-key", "key", "-subj", f"/CN={name}", "-days", "9", "-out", "self.crt")
        self.key, self.certificate = "key", "self.crt"
        self.transaction = secrets.token_hex(16)
        self._ra: list[x509.Certificate] | None = None

    def openssl(self, *arguments: str, data: bytes = b"") -> bytes:
        done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=False, cwd=self.folder)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def new_key(self, file: str, kind: str = "rsa") -> None:
        options = {
            "rsa": ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
            "ec": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
            "ed25519": ("-algorithm", "ED25519"),
        }
        self.openssl("genpkey", *options[kind], "-out", file)

    def ca(self) -> list[x509.Certificate]:
        """What GetCACert gives out, in the order in which it came; ca.pem and ra.pem are written."""
        if self._ra is None:
            body = self.world.curl(f"{self.url}?operation=GetCACert")
            if body[:60].find(b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02") < 0:
                ders = [body]
            else:
                ders = [one.dump() for one in cms.ContentInfo.load(body)["content"]["certificates"]]
            self._ra = [x509.load_der_x509_certificate(one) for one in ders]
            pems = [one.public_bytes(serialization.Encoding.PEM) for one in self._ra]
            (self.folder / "ca.pem").write_bytes(b"".join(pems))
            openers = [pem for one, pem in zip(self._ra, pems, strict=True) if self._usage(one).key_encipherment]
            (self.folder / "ra.pem").write_bytes((openers or pems)[0])
        return self._ra

    @staticmethod
    def _usage(certificate: x509.Certificate) -> x509.KeyUsage:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value

    def csr(
        self,
        challenge: str = "",
        *,
        subject: str | None = None,
        key: str = "key",
        extensions: str = "",
        digest: str = "sha256",
    ) -> bytes:
        """A DER PKCS#10 request, made by openssl."""
        lines = ["[req]", "prompt=no", "distinguished_name=dn"]
        lines += ["attributes=attr"] if challenge else []
        lines += ["req_extensions=ext"] if extensions else []
        lines += ["[dn]", *(subject or f"CN={self.name}").split(",")]
        lines += ["[attr]", f"challengePassword={challenge}"] if challenge else []
        lines += ["[ext]", extensions] if extensions else []
        (self.folder / "req.cnf").write_text("\n".join(lines) + "\n")
        return self.openssl("req", "-new", f"-{digest}", "-key", key, "-config", "req.cnf", "-outform", "DER")

    def envelope(self, content: bytes, cipher: str = "-aes128", *more: str) -> bytes:
        """EnvelopedData for the registration authority, made by openssl."""
        self.ca()
        options = ("-encrypt", "-binary", cipher, "-outform", "DER", *more)
        return self.openssl("cms", *options, "ra.pem", data=content)

    def message(
        self,
        kind: int | str | None,
        envelope: bytes | None,
        *,
        digest: str = "sha256",
        nonce: bytes | str | None = "fresh",
        transaction: str | None = None,
        extra: tuple[Any, ...] = (),
    ) -> bytes:
        """A pkiMessage, its signature made by openssl."""
        content = envelope or b""
        attributes = [
            attribute("content_type", "data"),
            attribute("message_digest", hashlib.new(digest, content).digest()),
            attribute(TRANSACTION_ID, core.PrintableString(transaction or self.transaction)),
            *extra,
        ]
        if kind is not None:
            attributes.append(attribute(MESSAGE_TYPE, core.PrintableString(str(kind))))
        if nonce == "fresh":
            nonce = os.urandom(16)
        if isinstance(nonce, bytes):
            attributes.append(attribute(SENDER_NONCE, core.OctetString(nonce)))
        signed = cms.CMSAttributes(attributes)
        pem = (self.folder / self.certificate).read_bytes()
        own = asn1_x509.Certificate.load(x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER))
        info = cms.SignerInfo(
            {
                "version": "v1",
                "sid": cms.SignerIdentifier(
                    {"issuer_and_serial_number": {"issuer": own.issuer, "serial_number": own.serial_number}}
                ),
                "digest_algorithm": {"algorithm": digest},
                "signed_attrs": signed,
                "signature_algorithm": self._signature_algorithm(digest),
                "signature": self._sign(signed.dump(), digest),
            }
        )
        data = cms.SignedData(
            {
                "version": "v1",
                "digest_algorithms": [{"algorithm": digest}],
                "encap_content_info": {"content_type": "data", **({"content": envelope} if envelope else {})},
                "certificates": [own],
                "signer_infos": [info],
            }
        )
        return bytes(cms.ContentInfo({"content_type": "signed_data", "content": data}).dump())

    def _kind(self) -> str:
        text = self.openssl("pkey", "-in", self.key, "-noout", "-text").decode()
        return "ed25519" if "ED25519" in text else "ec" if "NIST" in text else "rsa"

    def _signature_algorithm(self, digest: str) -> Any:
        kind = self._kind()
        names = {"rsa": "rsassa_pkcs1v15", "ec": f"{digest}_ecdsa", "ed25519": "ed25519"}
        found = {"algorithm": names[kind]}
        return algos.SignedDigestAlgorithm(found | ({"parameters": core.Null()} if kind == "rsa" else {}))

    def _sign(self, data: bytes, digest: str) -> bytes:
        if self._kind() == "ed25519":
            (self.folder / "to-sign").write_bytes(data)
            return self.openssl("pkeyutl", "-sign", "-rawin", "-inkey", self.key, "-in", "to-sign")
        return self.openssl("dgst", f"-{digest}", "-sign", self.key, data=data)

    def post(self, message: bytes, *, status: int = 200, url: str | None = None) -> bytes:
        file = self.folder / f"message-{secrets.token_hex(4)}"
        file.write_bytes(message)
        headers = ("-H", "Content-Type: application/x-pki-message", "-H", "Expect:")
        where = f"{url or self.url}?operation=PKIOperation"
        return self.world.curl(where, *headers, "--data-binary", f"@{file}", status=status)

    def get(self, message: bytes, *, escape: bool = True, status: int = 200) -> bytes:
        text = base64.b64encode(message).decode()
        return self.world.curl(
            f"{self.url}?operation=PKIOperation&message={quote(text, safe='') if escape else text}", status=status
        )

    def read(self, body: bytes) -> Answer:
        """Verify an answer with openssl and read it."""
        self.ca()
        (self.folder / "answer").write_bytes(body)
        outer = cms.ContentInfo.load(body)["content"]
        verify = ("cms", "-verify", "-inform", "DER", "-in", "answer", "-binary", "-CAfile", "ca.pem")
        verified = self.openssl(*verify, "-purpose", "any")
        attributes = {one["type"].dotted: one["values"] for one in outer["signer_infos"][0]["signed_attrs"]}

        def value(oid: str) -> Any:
            return attributes[oid][0].native if oid in attributes else None

        assert value(MESSAGE_TYPE) == "3"
        fail = value(FAIL_INFO)
        return Answer(
            raw=body,
            status=int(value(PKI_STATUS)),
            transaction_id=value(TRANSACTION_ID),
            sender_nonce=value(SENDER_NONCE),
            recipient_nonce=value(RECIPIENT_NONCE),
            fail_info=None if fail is None else int(fail),
            fail_text=value(FAIL_TEXT) or "",
            envelope=verified or None,
        )

    def ask(self, kind: int, envelope: bytes | None, **more: Any) -> Answer:
        return self.read(self.post(self.message(kind, envelope, **more)))

    def opened(self, answer: Answer, *more: str) -> bytes:
        """What is in an answer's envelope, decrypted by openssl."""
        assert answer.envelope is not None, answer
        (self.folder / "sealed").write_bytes(answer.envelope)
        how = more or ("-recip", self.certificate, "-inkey", self.key)
        return self.openssl("cms", "-decrypt", "-inform", "DER", "-binary", "-in", "sealed", *how)

    def certificates(self, answer: Answer, *more: str) -> list[x509.Certificate]:
        """The certificates that an answer brought."""
        assert answer.status == SUCCESS, answer
        inner = self.opened(answer, *more)
        pem = self.openssl("pkcs7", "-inform", "DER", "-print_certs", data=inner)
        return x509.load_pem_x509_certificates(pem)

    def enroll(self, challenge: str = "", **more: Any) -> Answer:
        return self.ask(PKCS_REQ, self.envelope(self.csr(challenge, **more)))

    def use(self, certificate: x509.Certificate, key: str = "key") -> None:
        """Sign with this certificate from now on."""
        (self.folder / "own.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.certificate, self.key = "own.crt", key


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
