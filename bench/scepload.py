"""SCEP load for the bench: messages made beforehand, posted over kept connections; and the server's preparation."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from sqlalchemy import Connection

from pkiserver.keys.algorithms import SignatureScheme
from protocols.cms import oids
from protocols.cms.ber import header
from protocols.cms.certs import parse_certs_only
from protocols.cms.ciphers import ContentCipher
from protocols.cms.enveloped import seal
from protocols.cms.messages import octets
from protocols.cms.recipients import RsaRecipient
from protocols.cms.signing import SignedContent, SignerProfile, attribute, prepare
from protocols.scep.messages import MESSAGE_TYPE, PKI_STATUS, SENDER_NONCE, TRANSACTION_ID

TEMPLATE = """
name = "bench-{issuer}"
issuer = "{issuer}"
keys = ["rsa-2048"]
protocols = ["scep"]
[validity]
duration = "90d"
[[evidence]]
all = ["code"]
[duplicates]
same_key = "allow"
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[key_usage]
usages = ["digital_signature", "key_encipherment"]
[extended_key_usage]
usages = ["client_auth"]
"""
SUCCESS_STATUS = octets(x509.ObjectIdentifier(PKI_STATUS)) + b"\x31\x03\x13\x01\x30"
CONNECTIONS = 16


def _printable(text: str) -> bytes:
    return header(b"\x13", len(text)) + text.encode()


class Device:
    """One RSA-2048 key that makes any number of distinct requests: making a key for each would take minutes."""

    def __init__(self) -> None:
        self.key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(name, name, self.key.public_key(), 1)
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
        self.own = builder.sign(self.key, hashes.SHA256())
        self.profile = SignerProfile(self.own, SignatureScheme.parse("rsa-sha256"), plain_rsa=True)

    def message(self, ra: x509.Certificate, number: int, challenge: str) -> bytes:
        """A PKCSReq of its own."""
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"bench-{number}")])
        builder = x509.CertificateSigningRequestBuilder(name)
        builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
        csr = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        envelope = seal(csr, (RsaRecipient(ra),), cipher=ContentCipher.AES128_CBC)
        attributes = (
            attribute(MESSAGE_TYPE, _printable("19")),
            attribute(TRANSACTION_ID, _printable(f"bench-{number}-{os.urandom(4).hex()}")),
            attribute(SENDER_NONCE, octets(os.urandom(16))),
        )
        own = self.own.public_bytes(serialization.Encoding.DER)
        content = SignedContent(oids.DATA, envelope)
        unsigned = prepare(content, self.profile, attributes=attributes, certificates=(own,))
        return unsigned.finish(self.key.sign(unsigned.signed_attrs, padding.PKCS1v15(), hashes.SHA256()))


def encryption_certificate(body: bytes) -> x509.Certificate:
    """Whom to encrypt for, in what GetCACert gave."""
    with contextlib.suppress(ValueError):
        return x509.load_der_x509_certificate(body)
    found = [x509.load_der_x509_certificate(one) for one in parse_certs_only(body).certificates]
    return next(one for one in found if isinstance(one.public_key(), rsa.RSAPublicKey))


def fetch(port: int, path: str, operation: str) -> bytes:
    """The body of a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"{path}?operation={operation}")
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{operation}: {answer.status} {body[:200]!r}")
    return body


def post_all(port: int, path: str, messages: list[bytes], connections: int = CONNECTIONS) -> float:
    """Answers of status SUCCESS a second, every message sent once; raises where one is refused."""
    numbers = itertools.count()
    failed: list[str] = []

    def lane() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while (number := next(numbers)) < len(messages) and not failed:
            headers = {"Content-Type": "application/x-pki-message"}
            connection.request("POST", f"{path}?operation=PKIOperation", messages[number], headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200 or SUCCESS_STATUS not in body:
                failed.append(f"{answer.status} {base64.b64encode(body)[:2000]!r}")
        connection.close()

    threads = [threading.Thread(target=lane) for _ in range(connections)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(failed[0])
    return len(messages) / (time.monotonic() - started)


async def _prepare(config: Path, count: int) -> None:
    from pkiserver.authority.lifecycle.ceremonies import KeyChoice, NewAuthority
    from pkiserver.authority.lifecycle.certify import Actor
    from pkiserver.authority.lifecycle.profile import CaProfile, parse_name
    from pkiserver.keys.algorithms import KeyType
    from pkiserver.runtime.configfile import load_settings
    from pkiserver.runtime.engine import open_engine
    from pkiserver.store.authority import templates

    settings = load_settings(config)
    async with open_engine(settings, worker="bench") as engine:
        if not any(one.name == "rsa" for one in engine.authorities.list()):
            key = KeyChoice(key_type=KeyType.parse("rsa-2048"), store=settings.key_store[0].name)
            new = NewAuthority("rsa", parse_name("CN=Bench RSA"), CaProfile(), key)
            await engine.road.ceremonies.create_subordinate(new, Actor("bench"), issuer="root")
        now = engine.clock.now()

        def put(connection: Connection) -> None:
            for issuer in ("issuing", "rsa"):
                name = f"bench-{issuer}"
                if templates.get(connection, name) is None:
                    templates.put(connection, name, TEMPLATE.format(issuer=issuer), now=now, expected=None)

        await engine.database.write(put)
        await engine.refresh()
        codes = {}
        for issuer in ("issuing", "rsa"):
            made = [
                await engine.codes.create(
                    template=f"bench-{issuer}", subject=None, sans=(), lifetime=timedelta(days=1), by="bench"
                )
                for _ in range(count)
            ]
            codes[issuer] = [code.reveal_text() for _, code in made]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    from pkiserver.cli.context import run_on_reactor

    path, wanted = Path(sys.argv[1]), int(sys.argv[2])
    run_on_reactor(lambda: _prepare(path, wanted))
