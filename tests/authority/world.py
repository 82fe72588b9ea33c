"""A small certificate server without listeners: database, audit log, SoftHSM and the road over them."""

from __future__ import annotations

import hashlib
import secrets
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from pkiserver.audit import AuditLog
from pkiserver.authority.checkpoints import Checkpoint
from pkiserver.authority.lifecycle.ceremonies import KeyChoice, NewAuthority
from pkiserver.authority.lifecycle.certify import Actor
from pkiserver.authority.lifecycle.profile import CaProfile, parse_name
from pkiserver.authority.model import Authority
from pkiserver.authority.requests import (
    Authorised,
    EnrollmentRequest,
    OperatorEvidence,
    ProofKind,
    ProofOfPossession,
    RegistrationRecord,
    Wishes,
    spki_der,
)
from pkiserver.authority.road import Road, new_holder
from pkiserver.authority.settings import AuthoritySettings, Publication
from pkiserver.authority.templates.library import TemplateLibrary
from pkiserver.foundation.clock import Clock, SystemClock
from pkiserver.keys.algorithms import KeyType
from pkiserver.keys.keyring import KeyRing
from pkiserver.keys.settings import ProviderSettings
from pkiserver.store.authority import templates
from pkiserver.store.database import Database
from tests.support.devicetemplates import device_template

ACTOR = Actor("tester", "test-1")
SETTINGS = AuthoritySettings(publication=Publication(base_url="http://pki.example"))
TEMPLATE = device_template(
    keys=("ec-p256", "ec-p384", "rsa-2048", "rsa-3072", "ed25519", "ml-dsa-65"), protocols=("internal", "est")
)


@attrs.frozen
class World:
    """Everything open. ``keys`` has the stores that were given to :func:`open_world`."""

    url: str
    database: Database
    audit: AuditLog
    keys: KeyRing
    templates: TemplateLibrary
    road: Road
    clock: Clock

    async def close(self) -> None:
        await self.road.recovery.stop()
        await self.keys.close()
        await self.database.close()

    async def root(self, name: str = "root", dn: str = "CN=Test Root,O=Example,C=CH", **profile: object) -> Authority:
        new = NewAuthority(name, parse_name(dn), CaProfile(**profile), new_key(), SETTINGS)  # type: ignore[arg-type]
        return await self.road.ceremonies.create_root(new, ACTOR)

    async def subordinate(
        self, name: str = "issuing", issuer: str = "root", dn: str = "CN=Test Issuing,O=Example,C=CH", **profile: object
    ) -> Authority:
        new = NewAuthority(name, parse_name(dn), CaProfile(**profile), new_key(), SETTINGS)  # type: ignore[arg-type]
        return await self.road.ceremonies.create_subordinate(new, ACTOR, issuer=issuer)

    async def template(self, toml: str = TEMPLATE, name: str = "device", revision: int | None = None) -> None:
        now = self.clock.now()
        await self.database.write(lambda c: templates.put(c, name, toml, now=now, expected=revision))
        await self.templates.refresh()
        assert self.templates.problems() == ()


def new_key(kind: str = "ec-p256") -> KeyChoice:
    # The token is shared by the tests of a file, so that a label is used once.
    return KeyChoice(name=f"ca-{secrets.token_hex(6)}", key_type=KeyType.parse(kind), store="softhsm")


async def open_world(
    url: str, stores: Iterable[ProviderSettings], clock: Clock | None = None, checkpoint: Checkpoint | None = None
) -> World:
    """Open a migrated database and everything over it; the road has not been started."""
    clock = clock or SystemClock()
    database = await Database.open(url)
    audit = AuditLog(database, node="test", worker="0", clock=clock)
    keys = await KeyRing.open(tuple(stores), database, audit, clock)
    library = TemplateLibrary(database)
    await library.refresh()
    road = Road.build(
        database=database,
        keys=keys,
        audit=audit,
        templates=library,
        clock=clock,
        holder=new_holder("test"),
        checkpoint=checkpoint,
    )
    return World(url, database, audit, keys, library, road, clock)


def authorised(
    key: CertificatePublicKeyTypes | None = None,
    common_name: str = "device 1",
    names: Iterable[x509.GeneralName] = (),
    **more: object,
) -> Authorised:
    """What the gate would have made of a request for template ``device``."""
    public_key = key or ec.generate_private_key(ec.SECP256R1()).public_key()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    values: dict[str, object] = {
        "template": "device",
        "public_key": public_key,
        "spki": spki_der(public_key),
        "proof": ProofOfPossession(ProofKind.CSR_SIGNATURE, verified=True),
        "wishes": Wishes(subject, tuple(names)),
        "evidence": (OperatorEvidence("tester"),),
        "protocol": "est",
        "source": "127.0.0.1",
        "request_id": "test-1",
    }
    request = EnrollmentRequest(**(values | more))  # type: ignore[arg-type]
    return Authorised(request, RegistrationRecord("tester"), "the test says so")


def pem(certificates: Iterable[bytes]) -> bytes:
    return b"".join(
        x509.load_der_x509_certificate(one).public_bytes(serialization.Encoding.PEM) for one in certificates
    )


def openssl_verify(directory: Path, leaf: bytes, above: Iterable[bytes], *options: str) -> str:
    """What ``openssl verify`` says: the last of ``above`` is trusted, the others are helpers."""
    chain = list(above)
    (directory / "leaf.pem").write_bytes(pem([leaf]))
    (directory / "root.pem").write_bytes(pem(chain[-1:] or [leaf]))
    (directory / "helpers.pem").write_bytes(pem(chain[:-1] or [leaf]))
    files = ["-CAfile", str(directory / "root.pem"), "-untrusted", str(directory / "helpers.pem")]
    command = ["openssl", "verify", "-x509_strict", *options, *files, str(directory / "leaf.pem")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip()


def fingerprint(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()


def in_days(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)
