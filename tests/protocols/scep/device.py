"""A SCEP client for which openssl makes keys, requests, envelopes, signatures.

What no command line can do, the attributes of a pkiMessage, is put together with asn1crypto, which the server does not
use for messages.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import attrs
from asn1crypto import algos, cms, core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import serialization

PKCS_REQ, RENEWAL_REQ, CERT_POLL, GET_CERT, GET_CRL = 19, 17, 20, 21, 22
SUCCESS, FAILURE, PENDING = 0, 2, 3
BAD_ALG, BAD_CHECK, BAD_REQUEST, BAD_TIME, BAD_CERT_ID = range(5)
_OID = "2.16.840.1.113733.1.9."
MESSAGE_TYPE, PKI_STATUS, FAIL_INFO, SENDER_NONCE, RECIPIENT_NONCE, TRANSACTION_ID = (f"{_OID}{n}" for n in range(2, 8))
FAIL_TEXT = "1.3.6.1.5.5.7.24.1"


class Site(Protocol):
    """Where a device lives."""

    @property
    def folder(self) -> Path:
        """Where it may have a folder of its own."""

    def curl(self, url: str, *arguments: str, status: int = 200) -> bytes:
        """The body of what the server answers, with this status."""


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

    def __init__(self, world: Site, name: str, url: str, kind: str = "rsa") -> None:
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

    def content_key(self, answer: Answer) -> bytes:
        """What an answer's envelope is encrypted with."""
        assert answer.envelope is not None, answer
        (recipient,) = cms.ContentInfo.load(answer.envelope)["content"]["recipient_infos"]
        encrypted = recipient.chosen["encrypted_key"].native
        return self.openssl("pkeyutl", "-decrypt", "-inkey", self.key, data=encrypted)

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
