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
from tests.support.devicetemplates import device_template
from tests.support.keys import software_store

ACTOR = Actor("tester", "test")
SETTINGS = AuthoritySettings(publication=Publication(base_url="http://pki.example"))


def template_text(name: str, evidence: str, more: str = "") -> str:
    """A device template whose common name and host names come from the request."""
    head = f'{more}\n[renewal]\nwindow = "120d"\n{evidence}'
    return device_template(name, protocols=("est", "cli"), head=head)


def engine_settings(folder: Path, url: str | None = None) -> NodeSettings:
    """A node whose database (SQLite in the folder, where no other is named) and software key store are in a folder."""
    folder.mkdir(exist_ok=True)
    cheap = PasswordSettings(memory_kib=8192, passes=1)
    return NodeSettings(
        database=DatabaseSettings(url=url or f"sqlite:///{folder / 'db'}"),
        state_dir=folder,
        key_store=(software_store(folder),),
        node="test",
        passwords=cheap,
    )


async def put_authority(engine: Engine, new: NewAuthority, issuer: str | None) -> None:
    """Create a root, or an authority below one that is there."""
    if issuer is None:
        await engine.road.ceremonies.create_root(new, ACTOR)
    else:
        await engine.road.ceremonies.create_subordinate(new, ACTOR, issuer=issuer)


async def put_templates(engine: Engine, texts: dict[str, str]) -> None:
    """Templates (name to TOML) into the database, all of which must be usable."""
    now = engine.clock.now()
    for name, text in texts.items():
        await engine.database.write(lambda c, n=name, t=text: templates.put(c, n, t, now=now, expected=None))
    await engine.refresh()
    assert engine.templates.problems() == ()


async def fill(engine: Engine, store: str, texts: dict[str, str], *, subject: str = "CN={},O=Example") -> None:
    """A root, an issuing CA with P-256 keys in ``store``, and templates (name to TOML)."""
    for name, issuer in (("root", None), ("issuing", "root")):
        key = KeyChoice(key_type=KeyType.parse("ec-p256"), store=store)
        new = NewAuthority(name, parse_name(subject.format(name)), CaProfile(), key, SETTINGS)
        await put_authority(engine, new, issuer)
    await put_templates(engine, texts)


@asynccontextmanager
async def engine_with(
    folder: Path, texts: dict[str, str], *, url: str | None = None, clock: Clock | None = None
) -> AsyncIterator[Engine]:
    """An engine with a root, an issuing CA and the given templates (name to TOML)."""
    settings = engine_settings(folder, url)
    migrate(settings.database.url)
    store = settings.key_store[0]
    async with open_engine(settings, clock=clock) as engine:
        await fill(engine, store.name, texts)
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
