"""Working off the queue of what is published outwards, once, as the server does every other second."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from pkiserver.authority.delivery.queue import Bearer, QueueRunner
from pkiserver.authority.status.turns import Turns
from pkiserver.publication.smime import SmimeWriter
from pkiserver.runtime.engine import Engine
from pkiserver.store.publication.outward import Standing


async def deliver(engine: Engine) -> tuple[Standing, ...]:
    """Bring every target what is due; how each stands afterwards, directories first."""
    turns = Turns(engine.database, engine.clock, "test")
    bearers: list[Bearer] = [*engine.directories.list(), *engine.copies.bearers()]
    runners = [QueueRunner(one, engine.database, turns, engine.clock) for one in bearers]
    for one in runners:
        await one.run_due()
    return tuple(one.standing for one in runners)


async def announce(engine: Engine, address: str, certificate: bytes, key: Any) -> bytes:
    """Keep a person's SignedData by this key, as the address book does once it has verified one; the message."""
    own = x509.load_der_x509_certificate(certificate)
    builder = pkcs7.PKCS7SignatureBuilder().set_data(b"").add_signer(own, key, hashes.SHA256())
    message = builder.sign(Encoding.DER, [pkcs7.PKCS7Options.Binary])
    writer = SmimeWriter(engine.database, engine.audit, engine.clock)
    await writer.put(address, message, certificate, certificate, by="test")
    return message
