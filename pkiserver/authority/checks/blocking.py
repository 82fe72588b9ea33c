"""The administrator's list of keys that nobody may have certified: known leaked, weak or debugging keys."""

from __future__ import annotations

import hashlib
import re

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.requests import spki_der
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.store.certificates import blocked_keys
from pkiserver.store.database import Database

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_REPORTED = 20
"""Bad lines that a refusal names."""
_AT_ONCE = 5000


def read_list(data: bytes) -> tuple[bytes, ...]:
    """SHA-256 digests of SubjectPublicKeyInfo from a list, or of what a PEM file holds.

    A list has one digest of 64 hexadecimal digits a line, colons allowed, ``#`` begins a comment. A PEM file holds a
    public key or certificates.

    Raises:
        Rejected: MALFORMED, with the lines that cannot be read.
    """
    if b"-----BEGIN" in data:
        return _read_pem(data)
    found: list[bytes] = []
    reasons: list[Reason] = []
    for number, line in enumerate(data.decode("ascii", "replace").splitlines(), 1):
        text = line.partition("#")[0].strip().replace(":", "")
        if not text:
            continue
        if _DIGEST.fullmatch(text):
            found.append(bytes.fromhex(text))
        elif len(reasons) < _REPORTED:
            reasons.append(Reason(Refusal.MALFORMED, f"line {number} is no SHA-256 digest of 64 hexadecimal digits"))
    if reasons:
        raise Rejected(reasons)
    return tuple(dict.fromkeys(found))


def _read_pem(data: bytes) -> tuple[bytes, ...]:
    try:
        if b"-----BEGIN CERTIFICATE-----" in data:
            keys = [one.public_key() for one in x509.load_pem_x509_certificates(data)]
            return tuple(hashlib.sha256(spki_der(key)).digest() for key in keys)
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        octets = serialization.load_pem_public_key(data).public_bytes(serialization.Encoding.DER, form)
    except ValueError as error:
        raise Rejected.because(Refusal.MALFORMED, f"the PEM holds no public key and no certificate: {error}") from error
    return (hashlib.sha256(octets).digest(),)


class Blocking:
    """Changes the list; every change is in the audit log."""

    def __init__(self, database: Database, audit: AuditLog, clock: Clock) -> None:
        self._database = database
        self._audit = audit
        self._clock = clock

    async def block(self, digests: tuple[bytes, ...], *, why: str, actor: str) -> int:
        """Block keys by the SHA-256 of their SubjectPublicKeyInfo; returns how many were given.

        Raises:
            Unavailable: the database cannot be written.
        """
        for start in range(0, len(digests), _AT_ONCE):
            part = digests[start : start + _AT_ONCE]
            event = self._event(actor, "keys blocked", ("count", str(len(part))), ("why", why))

            def work(connection: Connection, part: tuple[bytes, ...] = part, event: AuditEvent = event) -> None:
                blocked_keys.add_many(connection, part, why=why, now=self._clock.now())
                self._audit.append(connection, event)

            await self._database.write(work)
        return len(digests)

    async def unblock(self, digest: bytes, *, actor: str) -> None:
        """Take a key off the list.

        Raises:
            Rejected: UNKNOWN_REQUEST; it is not on the list.
            Unavailable: the database cannot be written.
        """
        event = self._event(actor, "key unblocked", ("detail", digest.hex()))

        def work(connection: Connection) -> None:
            if not blocked_keys.remove(connection, digest):
                raise Rejected.because(Refusal.UNKNOWN_REQUEST, f"no key {digest.hex()} is on the list")
            self._audit.append(connection, event)

        await self._database.write(work)

    def _event(self, actor: str, change: str, *details: tuple[str, str]) -> AuditEvent:
        return AuditEvent(
            kind=AuditKind.CONFIGURATION, actor=actor, object="blocked keys", details=(("change", change), *details)
        )
