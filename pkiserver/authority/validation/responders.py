"""Responders in the name of other authorities: a key here, a certificate from there (RFC 6960 section 4.2.2.2)."""

from __future__ import annotations

import secrets
from datetime import datetime

import attrs
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind, AuditLog
from pkiserver.authority.csr import request_info
from pkiserver.authority.extensions import extension, key_usage
from pkiserver.authority.model import CaCertificate
from pkiserver.authority.requests import spki_der
from pkiserver.authority.templates.usages import Usage
from pkiserver.authority.validation.settings import ForeignCa
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Reason, Refusal, Rejected
from pkiserver.foundation.extensionvalue import extension_value
from pkiserver.foundation.unreadable import UNREADABLE
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.store.authority import foreign
from pkiserver.store.authority import keys as key_rows
from pkiserver.store.authority.foreign import InstalledResponder
from pkiserver.store.database import Database


@attrs.frozen
class ResponderRequest:
    """A PKCS#10 request (DER) and the name of the key that it is about."""

    key_name: str
    der: bytes = attrs.field(repr=False)


def key_prefix(name: str) -> str:
    """How the names of an authority's responder keys begin."""
    return f"ocsp-for-{name}-"


class ForeignResponders:
    """Keys and certificates of responders."""

    def __init__(self, database: Database, keys: KeyRing, audit: AuditLog, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._audit = audit
        self._clock = clock

    async def request(self, ca: ForeignCa, *, key_type: KeyType, store: str, actor: str) -> ResponderRequest:
        """Make a key that can sign OCSP answers only, and a request for its certificate.

        Raises:
            Rejected: there is no such store, or it has no such keys.
            Unavailable: the store is away.
        """
        name = f"{key_prefix(ca.name)}{self._clock.now():%Y%m%d}.{secrets.token_hex(3)}"
        await self._keys.generate(name, key_type, store=store, doors=(Door.OCSP,), actor=actor)
        signer = self._keys.request_signer(name)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"OCSP responder {ca.name}"[:64])])
        wanted = (
            key_usage(frozenset({Usage.DIGITAL_SIGNATURE}), critical=True),
            extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])),
            extension(x509.OCSPNoCheck()),
        )
        info = request_info(subject.public_bytes(), spki_der(signer.public_key), wanted)
        return ResponderRequest(name, await signer.sign(info, signer.default_scheme))

    async def install(self, ca: ForeignCa, certificate: bytes, *, actor: str) -> InstalledResponder:
        """Take the certificate (DER) that the authority issued to one of its responder keys here.

        Raises:
            Rejected: with every reason why nobody would believe its answers.
        """
        try:
            parsed = x509.load_der_x509_certificate(certificate)
            spki = spki_der(parsed.public_key())
            reasons = _reasons(certificate, parsed, ca.ca(), self._clock.now())
        except UNREADABLE as error:
            raise Rejected.because(Refusal.MALFORMED, f"not a usable certificate: {error}") from error
        key_name = await self._database.read(lambda connection: _key_of(connection, ca.name, spki))
        if key_name is None:
            text = f"its key is none that was made here for {ca.name}: pkiserver responder csr {ca.name}"
            reasons.append(Reason(Refusal.BAD_KEY, text))
        if reasons or key_name is None:
            raise Rejected(reasons)
        installed = InstalledResponder(ca.name, key_name, certificate, self._clock.now())
        event = AuditEvent(
            kind=AuditKind.RESPONDER,
            actor=actor,
            object=f"foreign CA {ca.name}",
            outcome="ok",
            request_id=None,
            details=(("key", key_name), ("serial", f"{parsed.serial_number:x}")),
        )

        def work(connection: Connection) -> None:
            foreign.install_responder(connection, installed)
            self._audit.append(connection, event)

        await self._database.write(work)
        return installed

    async def list(self) -> tuple[InstalledResponder, ...]:
        """Every responder that was installed."""
        return await self._database.read(foreign.responders)


def _key_of(connection: Connection, name: str, spki: bytes) -> str | None:
    rows = key_rows.list_all(connection)
    return next((row.name for row in rows if row.spki == spki and row.name.startswith(key_prefix(name))), None)


def _reasons(data: bytes, parsed: x509.Certificate, ca: CaCertificate, now: datetime) -> list[Reason]:
    """Why clients would not accept a responder's certificate (RFC 6960 section 4.2.2.2)."""
    reasons = []
    if not ca.has_issued(data):
        text = "it was not issued by the authority's key itself, which alone clients accept"
        reasons.append(Reason(Refusal.CONFLICT, text))
    usages = extension_value(parsed, x509.ExtendedKeyUsage)
    if usages is None or ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        reasons.append(Reason(Refusal.BAD_EXTENSION, "it lacks the extended key usage OCSPSigning"))
    usage = extension_value(parsed, x509.KeyUsage)
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        reasons.append(Reason(Refusal.BAD_EXTENSION, "its key usage does not permit signatures"))
    if parsed.not_valid_after_utc <= now:
        reasons.append(Reason(Refusal.BAD_VALIDITY, f"it expired at {parsed.not_valid_after_utc:%Y-%m-%d %H:%M:%SZ}"))
    return reasons
