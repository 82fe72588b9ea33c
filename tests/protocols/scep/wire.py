"""A device that puts its messages together octet by octet, for those that no command line makes.

Keys and signatures are those of ``cryptography``, the structure is asn1crypto's; the server uses neither's CMS.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import http.client
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
from asn1crypto import cms, core
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import padding as block_padding
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID
from twisted.logger import formatEvent, globalLogPublisher

from tests.protocols.scep.device import (
    FAIL_INFO,
    FAIL_TEXT,
    MESSAGE_TYPE,
    PKI_STATUS,
    SENDER_NONCE,
    TRANSACTION_ID,
    attribute,
)
from tests.protocols.scep.support import World

Change = Callable[[Any], None]
PKCS1_SHA256 = {"algorithm": "rsassa_pkcs1v15", "parameters": core.Null()}


@attrs.frozen
class Said:
    """What came back: the HTTP status and, of a CertRep, what it says (its signature is not looked at)."""

    http: int
    status: str | None = None
    fail_info: str | None = None
    text: str | None = None

    @property
    def granted(self) -> bool:
        """Whether it brought something."""
        return (self.http, self.status) == (200, "0")

    @property
    def clean(self) -> bool:
        """Whether it is an answer that SCEP has: a CertRep or HTTP 400."""
        return self.http == 400 or (self.http == 200 and self.status in {"0", "2", "3"})


def changed(data: bytes, position: int, by: int) -> bytes:
    """``data`` with one octet altered."""
    return data[:position] + bytes((data[position] ^ by,)) + data[position + 1 :]


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def self_signed(key: rsa.RSAPrivateKey, common_name: str) -> bytes:
    """A certificate, DER, as devices make it for their first message."""
    begin = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name(common_name), name(common_name), key.public_key(), 1).not_valid_before(begin)
    return (
        builder.not_valid_after(begin + dt.timedelta(days=9999)).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
    )


class Wire:
    """An RSA key, its certificate, and a connection to one template."""

    def __init__(self, world: World, at: str = "device", common_name: str = "wired") -> None:
        self.world, self.at, self.name = world, at, common_name
        self.key = rsa.generate_private_key(65537, 2048)
        self.certificate = self_signed(self.key, common_name)
        self.ra = next(
            one for one in world.device("wire", at=at).ca() if isinstance(one.public_key(), rsa.RSAPublicKey)
        )
        self.transaction = secrets.token_hex(16)
        self._connection = http.client.HTTPConnection("127.0.0.1", world.number, timeout=240)

    def csr(self, challenge: str = "") -> bytes:
        """A DER PKCS#10 request."""
        builder = x509.CertificateSigningRequestBuilder().subject_name(name(self.name))
        if challenge:
            builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def fresh(self) -> bytes:
        """A request with a code that is good, for a new transaction."""
        self.transaction = secrets.token_hex(16)
        return self.csr(self.world.code(self.at))

    def envelope(
        self,
        content: bytes,
        *,
        rid: Any = None,
        algorithm: Any = None,
        transport: padding.AsymmetricPadding | None = None,
        change: Change | None = None,
    ) -> bytes:
        """EnvelopedData, AES-128-CBC, for the registration authority; ``change`` alters it before it is encoded."""
        key, iv = os.urandom(16), os.urandom(16)
        padder = block_padding.PKCS7(128).padder()
        encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        sealed = encryptor.update(padder.update(content) + padder.finalize()) + encryptor.finalize()
        public = self.ra.public_key()
        assert isinstance(public, rsa.RSAPublicKey)
        recipient = {
            "version": "v0",
            "rid": rid or cms.RecipientIdentifier({"issuer_and_serial_number": identifier(self.ra)}),
            "key_encryption_algorithm": algorithm or PKCS1_ENCRYPTION,
            "encrypted_key": public.encrypt(key, transport or padding.PKCS1v15()),
        }
        info = cms.ContentInfo(
            {
                "content_type": "enveloped_data",
                "content": {
                    "version": "v0",
                    "recipient_infos": [cms.RecipientInfo({"ktri": recipient})],
                    "encrypted_content_info": {
                        "content_type": "data",
                        "content_encryption_algorithm": {"algorithm": "aes128_cbc", "parameters": iv},
                        "encrypted_content": sealed,
                    },
                },
            }
        )
        if change is not None:
            change(info)
        return bytes(info.dump())

    def attributes(self, kind: int, content: bytes) -> list[Any]:
        """The signed attributes of a request."""
        return [
            attribute("content_type", "data"),
            attribute("message_digest", hashlib.sha256(content).digest()),
            attribute(TRANSACTION_ID, core.PrintableString(self.transaction)),
            attribute(MESSAGE_TYPE, core.PrintableString(str(kind))),
            attribute(SENDER_NONCE, core.OctetString(os.urandom(16))),
        ]

    def message(
        self,
        kind: int,
        envelope: bytes,
        *,
        certificate: bytes | None = None,
        certificates: tuple[bytes, ...] | None = None,
        sid: Any = None,
        attributes: list[Any] | None = None,
        algorithm: Any = None,
        sign: Callable[[bytes], bytes] | None = None,
        change: Change | None = None,
    ) -> bytes:
        """A pkiMessage, signed with our key whatever ``certificate`` says."""
        own = asn1_x509.Certificate.load(certificate or self.certificate)
        signed = cms.CMSAttributes(self.attributes(kind, envelope) if attributes is None else attributes)
        carried = [own] if certificates is None else [asn1_x509.Certificate.load(one) for one in certificates]
        named = {"issuer": own.issuer, "serial_number": own.serial_number}
        signer = {
            "version": "v1",
            "sid": sid or cms.SignerIdentifier({"issuer_and_serial_number": named}),
            "digest_algorithm": {"algorithm": "sha256"},
            "signed_attrs": signed,
            "signature_algorithm": algorithm or PKCS1_SHA256,
            "signature": (sign or self.sign)(signed.dump()),
        }
        info = cms.ContentInfo(
            {
                "content_type": "signed_data",
                "content": {
                    "version": "v1",
                    "digest_algorithms": [{"algorithm": "sha256"}],
                    "encap_content_info": {"content_type": "data", "content": envelope},
                    "certificates": carried,
                    "signer_infos": [signer],
                },
            }
        )
        if change is not None:
            change(info)
        return bytes(info.dump())

    def sign(self, data: bytes) -> bytes:
        return self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())

    def post(self, message: bytes) -> Said:
        """What a message is answered."""
        headers = {"Content-Type": "application/x-pki-message"}
        try:
            return self._post(message, headers)
        except (http.client.HTTPException, ConnectionError):
            self._connection.close()
            return self._post(message, headers)

    def _post(self, message: bytes, headers: dict[str, str]) -> Said:
        self._connection.request("POST", f"/scep/{self.at}?operation=PKIOperation", message, headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            return Said(answer.status, text=body.decode())
        signer = cms.ContentInfo.load(body)["content"]["signer_infos"][0]
        said = {one["type"].dotted: one["values"][0].native for one in signer["signed_attrs"]}
        return Said(200, said.get(PKI_STATUS), said.get(FAIL_INFO), said.get(FAIL_TEXT))

    def ask(self, kind: int, envelope: bytes, **more: Any) -> Said:
        return self.post(self.message(kind, envelope, **more))


PKCS1_ENCRYPTION = {"algorithm": "rsaes_pkcs1v15", "parameters": core.Null()}


def identifier(certificate: x509.Certificate) -> Any:
    """IssuerAndSerialNumber."""
    issuer = asn1_x509.Name.load(certificate.issuer.public_bytes())
    return cms.IssuerAndSerialNumber({"issuer": issuer, "serial_number": certificate.serial_number})


@contextmanager
def logged() -> Iterator[list[str]]:
    """The lines that SCEP logs meanwhile; nothing of the server's fails."""
    lines: list[str] = []
    failures: list[Any] = []

    def look(event: dict[str, Any]) -> None:
        if event.get("log_failure") is not None:
            failures.append(event["log_failure"])
        if event.get("log_namespace") == "pkiserver.scep":
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(look)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(look)
    assert failures == []
