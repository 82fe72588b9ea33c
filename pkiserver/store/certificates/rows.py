"""Rows of ``certificate`` to values."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row

from pkiserver.store.certificates.values import (
    Certificate,
    CertificateState,
    CertificateStatus,
    Intent,
    Revocation,
    RevocationReason,
    serial_number,
)
from pkiserver.store.names import sans_from_text
from pkiserver.store.times import from_micros, optional_time


def revocation_of(row: Any) -> Revocation | None:
    """The revocation in a row, if there is one."""
    if row.revoked_at is None:
        return None
    return Revocation(
        RevocationReason(row.revocation_reason), from_micros(row.revoked_at), optional_time(row.invalidity_date)
    )


def certificate_of(row: Any) -> Certificate:
    """A whole row of ``certificate``, SQLAlchemy's or the driver's."""
    return Certificate(
        id=row.id,
        issuer_id=row.issuer_id,
        generation_id=row.generation_id,
        serial=serial_number(row.serial),
        state=CertificateState(row.state),
        tbs=row.tbs,
        der=row.der,
        subject=row.subject,
        sans=sans_from_text(row.sans),
        not_before=from_micros(row.not_before),
        not_after=from_micros(row.not_after),
        template=row.template,
        requester=row.requester,
        protocol=row.protocol,
        request_id=row.request_id,
        fingerprint=row.fingerprint,
        spki_sha256=row.spki_sha256,
        revocation=revocation_of(row),
        replaced_by=row.replaced_by,
        created=from_micros(row.created),
        settled=from_micros(row.settled),
    )


def intent_of(row: Row[Any]) -> Intent:
    """A whole row of ``certificate_intent``."""
    return Intent(
        id=row.id,
        issuer_id=row.issuer_id,
        generation_id=row.generation_id,
        serial=serial_number(row.serial),
        state=CertificateState(row.state),
        tbs=row.tbs,
        subject=row.subject,
        sans=sans_from_text(row.sans),
        not_before=from_micros(row.not_before),
        not_after=from_micros(row.not_after),
        template=row.template,
        requester=row.requester,
        protocol=row.protocol,
        request_id=row.request_id,
        spki_sha256=row.spki_sha256,
        holder=row.holder,
        created=from_micros(row.created),
    )


def status_of(row: Any) -> CertificateStatus:
    """The columns of a status query, SQLAlchemy's row or the driver's."""
    return CertificateStatus(
        row.id, row.generation_id, CertificateState(row.state), revocation_of(row), from_micros(row.not_after)
    )
