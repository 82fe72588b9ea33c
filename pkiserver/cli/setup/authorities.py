"""The first root and issuing CA, the ready templates, the server's TLS certificate and a demonstration account."""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind
from pkiserver.authority.lifecycle.ceremonies import KeyChoice, NewAuthority
from pkiserver.authority.lifecycle.certify import Actor
from pkiserver.authority.lifecycle.profile import CaProfile
from pkiserver.authority.requests import (
    EnrollmentRequest,
    OperatorEvidence,
    ProofKind,
    ProofOfPossession,
    Wishes,
    spki_der,
)
from pkiserver.authority.settings import AuthoritySettings, Publication
from pkiserver.authority.tampering import DIGEST, digest
from pkiserver.authority.templates.library import ready_names, ready_text
from pkiserver.cli.setup.files import write_secret
from pkiserver.cli.setup.layout import DEMO_ACCOUNT, DEMO_MAIL, ISSUING, ROOT, Layout, host_names
from pkiserver.foundation.errors import Defect
from pkiserver.foundation.secret import Secret
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.doors import Door
from pkiserver.registration.approvals import Pending
from pkiserver.runtime.engine import Engine
from pkiserver.store.authority import templates

ACTOR = Actor("quickstart")
DEMO_GROUPS = frozenset({"device", "tls-server", "user"})
CHECKPOINT_KEY = "audit-checkpoint"
"""The key whose signature closes the audit log's chains (docs/operations.md)."""
_PEM = serialization.Encoding.PEM


async def create_authorities(engine: Engine, layout: Layout) -> None:
    """A root and an issuing CA below it, P-256, their keys born in the key store."""
    store = engine.settings.key_store[0].name
    key_type = KeyType.parse("ec-p256")
    settings = AuthoritySettings(publication=Publication(base_url=layout.http_url))
    root = NewAuthority(
        name=ROOT,
        subject=_name("pkiserver Root CA"),
        profile=CaProfile(validity=timedelta(days=7300), path_length=1, digital_signature=False),
        key=KeyChoice(key_type=key_type, store=store),
        settings=settings,
    )
    issuing = NewAuthority(
        name=ISSUING,
        subject=_name("pkiserver Issuing CA"),
        profile=CaProfile(validity=timedelta(days=3650), path_length=0),
        key=KeyChoice(key_type=key_type, store=store),
        settings=settings,
    )
    made = await engine.road.ceremonies.create_root(root, ACTOR)
    await engine.keys.generate(CHECKPOINT_KEY, key_type, store=store, doors={Door.CHECKPOINT}, actor=ACTOR.name)
    await engine.road.ceremonies.create_subordinate(issuing, ACTOR, issuer=ROOT)
    layout.root_certificate.write_text(made.current.certificate.pem(), encoding="ascii")


async def load_templates(engine: Engine) -> None:
    """Every ready template into the database."""
    now = engine.clock.now()

    def store(connection: Connection) -> None:
        for name in ready_names():
            templates.put(connection, name, ready_text(name), now=now, expected=None)
            details = (("change", "created"), (DIGEST, digest(ready_text(name))))
            event = AuditEvent(AuditKind.CONFIGURATION, ACTOR.name, f"template {name}", details=details)
            engine.audit.append(connection, event)

    await engine.database.write(store)
    await engine.templates.refresh()


async def create_account(engine: Engine, layout: Layout) -> None:
    """The account that the printed commands use; its password is in a file of mode 0600."""
    password = Secret(secrets.token_urlsafe(18))
    attributes = (("mail", DEMO_MAIL), ("display_name", "Demo Person"))
    await engine.accounts.create(DEMO_ACCOUNT, password, groups=DEMO_GROUPS, attributes=attributes, by=ACTOR.name)
    write_secret(layout.secrets / "demo-password", password)


async def create_tls_certificate(engine: Engine, layout: Layout) -> None:
    """The server's own TLS certificate, by the tls-server template, for this machine's names."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = host_names()
    sans: list[x509.GeneralName] = [x509.DNSName(name) for name in names if name.isascii() and "_" not in name]
    request = EnrollmentRequest(
        template="tls-server",
        public_key=key.public_key(),
        spki=spki_der(key.public_key()),
        proof=ProofOfPossession(ProofKind.GENERATED_HERE, verified=True),
        wishes=Wishes(subject=_name("localhost", organisation=False), sans=tuple(sans)),
        evidence=(OperatorEvidence("quickstart"),),
        protocol="cli",
        source="quickstart",
        request_id="quickstart",
    )
    issued = await engine.enroll(request)
    if isinstance(issued, Pending):
        raise Defect("the tls-server template asks for approval")
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write_pair(layout.tls, private, issued.der, issued.chain)


def _write_pair(folder: Path, private: bytes, der: bytes, chain: tuple[bytes, ...]) -> None:
    (folder / "server.key").unlink(missing_ok=True)
    write_secret(folder / "server.key", Secret(private))
    # The root is left out: clients have it, or do not trust it.
    served = [x509.load_der_x509_certificate(one) for one in (der, *chain)]
    pem = b"".join(one.public_bytes(_PEM) for one in served if one.subject != one.issuer)
    (folder / "server.pem").write_bytes(pem)


def _name(common_name: str, *, organisation: bool = True) -> x509.Name:
    parts = [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "pkiserver")] if organisation else []
    return x509.Name([*parts, x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
