"""An engine without listeners, over a software key store: two authorities and a few templates; fast to make."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pkiserver.authority.csr import parse_request
from pkiserver.authority.lifecycle.ceremonies import KeyChoice, NewAuthority
from pkiserver.authority.lifecycle.certify import Actor
from pkiserver.authority.lifecycle.profile import CaProfile, parse_name
from pkiserver.authority.requests import EnrollmentRequest, Evidence, ProofKind, ProofOfPossession
from pkiserver.authority.settings import AuthoritySettings, Publication
from pkiserver.foundation.clock import Clock
from pkiserver.keys.algorithms import KeyType
from pkiserver.registration.passwords import PasswordSettings
from pkiserver.runtime.config import DatabaseSettings, NodeSettings
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.store.authority import templates
from pkiserver.store.migrate import migrate
from tests.support.keys import software_store

ACTOR = Actor("tester", "test")


def template_text(name: str, evidence: str, more: str = "") -> str:
    """A device template whose common name and host names come from the request."""
    return f"""
name = "{name}"
issuer = "issuing"
keys = ["ec-p256"]
protocols = ["est", "cli"]
{more}
[validity]
duration = "90d"
[renewal]
window = "120d"
{evidence}
[[subject.parts]]
attribute = "common_name"
from = "request"
required = true
[[sans.parts]]
kind = "dns"
from = "request"
[key_usage]
usages = ["digital_signature"]
[extended_key_usage]
usages = ["client_auth"]
"""


def engine_settings(folder: Path, url: str | None = None) -> NodeSettings:
    """A node whose database (SQLite in the folder, where no other is named) and software key store are in a folder."""
    cheap = PasswordSettings(memory_kib=8192, passes=1)
    return NodeSettings(
        database=DatabaseSettings(url=url or f"sqlite:///{folder / 'db'}"),
        state_dir=folder,
        key_store=(software_store(folder),),
        node="test",
        passwords=cheap,
    )


@asynccontextmanager
async def engine_with(
    folder: Path, texts: dict[str, str], *, url: str | None = None, clock: Clock | None = None
) -> AsyncIterator[Engine]:
    """An engine with a root, an issuing CA and the given templates (name to TOML)."""
    settings = engine_settings(folder, url)
    migrate(settings.database.url)
    store = settings.key_store[0]
    async with open_engine(settings, clock=clock) as engine:
        now = engine.clock.now()
        publication = AuthoritySettings(publication=Publication(base_url="http://pki.example"))
        for name, issuer in (("root", None), ("issuing", "root")):
            key = KeyChoice(key_type=KeyType.parse("ec-p256"), store=store.name)
            new = NewAuthority(name, parse_name(f"CN={name},O=Example"), CaProfile(), key, publication)
            if issuer is None:
                await engine.road.ceremonies.create_root(new, ACTOR)
            else:
                await engine.road.ceremonies.create_subordinate(new, ACTOR, issuer=issuer)
        for name, text in texts.items():
            await engine.database.write(
                lambda connection, n=name, t=text: templates.put(connection, n, t, now=now, expected=None)
            )
        await engine.refresh()
        assert engine.templates.problems() == ()
        yield engine


def enrollment(
    template: str,
    *evidence: Evidence,
    name: str = "device-1",
    key: ec.EllipticCurvePrivateKey | None = None,
    protocol: str = "est",
    verified: bool = True,
    renewal_of: bytes | None = None,
    hosts: tuple[str, ...] = (),
) -> EnrollmentRequest:
    """A request with a CSR of a fresh P-256 key."""
    private = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(parse_name(f"CN={name}"))
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in hosts]), critical=False)
    csr = builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    parsed = parse_request(csr)
    return EnrollmentRequest(
        template=template,
        public_key=parsed.public_key,
        spki=parsed.spki,
        proof=ProofOfPossession(ProofKind.CSR_SIGNATURE, verified=verified),
        wishes=parsed.wishes,
        evidence=evidence,
        protocol=protocol,
        source="127.0.0.1",
        request_id="test-1",
        csr=csr,
        renewal_of=renewal_of,
    )
