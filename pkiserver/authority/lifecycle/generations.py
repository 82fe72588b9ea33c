"""Changes to key generations in the database; each is part of a transaction that its caller makes."""

from __future__ import annotations

from datetime import datetime

import attrs
from cryptography import x509
from sqlalchemy import Connection

from pkiserver.audit import AuditEvent, AuditKind
from pkiserver.authority.issue import Also
from pkiserver.authority.lifecycle.certify import Actor
from pkiserver.authority.model import CaCertificate
from pkiserver.authority.requests import IssuedCertificate
from pkiserver.foundation.errors import Defect
from pkiserver.store.authority import authorities as rows
from pkiserver.store.authority.authorities import GenerationState


@attrs.frozen
class NewGeneration:
    """A generation to be: its DN, its key if that is here, and its certificate and chain (DER) if it has them."""

    subject_der: bytes = attrs.field(repr=False)
    subject: x509.Name
    key_name: str | None
    ca: CaCertificate | None = None
    chain: tuple[bytes, ...] = attrs.field(default=(), repr=False)


def add_generation(connection: Connection, authority: str, new: NewGeneration, now: datetime) -> rows.Generation:
    """The next generation: active with a certificate, pending without; its CRL path is its own."""
    made = rows.add_generation(
        connection,
        authority_name=authority,
        certificate=None if new.ca is None else new.ca.der,
        key_name=new.key_name,
        chain=new.chain,
        ski=None if new.ca is None else new.ca.key_identifier,
        state=GenerationState.PENDING if new.ca is None else GenerationState.ACTIVE,
        now=now,
    )
    made = attrs.evolve(made, crl_path=f"{authority}-{made.number}")
    rows.update_generation(connection, made)
    return made


def activate(connection: Connection, generation_id: int, certificate: bytes, chain: tuple[bytes, ...]) -> None:
    """Give a generation its certificate; from now on it issues, and those before it only tell status."""
    row = rows.lock_generation(connection, generation_id)
    if row is None:
        raise Defect(f"key generation {generation_id} has vanished")
    ca = CaCertificate.load(certificate)
    renewed = row.state is GenerationState.PREVIOUS
    state = GenerationState.PREVIOUS if renewed else GenerationState.ACTIVE
    rows.update_generation(
        connection,
        attrs.evolve(row, certificate=certificate, chain=chain, ski=ca.key_identifier, state=state),
    )
    for other in rows.generations(connection, row.authority):
        if other.id != row.id and other.state is GenerationState.ACTIVE and not renewed:
            rows.update_generation(connection, attrs.evolve(other, state=GenerationState.PREVIOUS))


def activates(generation_id: int, chain: tuple[bytes, ...] = ()) -> Also:
    """For the road: the certificate that is being stored becomes the generation's, in the same transaction."""

    def also(connection: Connection, issued: IssuedCertificate) -> None:
        activate(connection, generation_id, issued.der, chain)

    return also


def configuration_event(actor: Actor, authority: str, what: str, *details: tuple[str, str]) -> AuditEvent:
    """What the audit log says about a change to an authority."""
    return AuditEvent(
        kind=AuditKind.CONFIGURATION,
        actor=actor.name,
        object=f"authority {authority}",
        outcome="ok",
        request_id=actor.request_id or None,
        details=(("change", what), *details),
    )
