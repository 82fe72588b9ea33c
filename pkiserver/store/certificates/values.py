"""What the store keeps about a certificate, as frozen values."""

from __future__ import annotations

import enum
from datetime import datetime

import attrs

from pkiserver.store.names import San


class CertificateState(enum.StrEnum):
    """Where a certificate stands on its road.

    prepared -> asked -> issued; issued -> revoked | held; held -> issued | revoked. Revoked is final.
    """

    PREPARED = "prepared"
    """Serial and to-be-signed certificate are durable; no signature has been asked for."""
    ASKED = "asked"
    """A signature may exist."""
    ISSUED = "issued"
    BURNT = "burnt"
    """Given up before a signature was asked for: the serial will never be used."""
    REVOKED = "revoked"
    HELD = "held"


UNDER_WAY = frozenset({CertificateState.PREPARED, CertificateState.ASKED})


class RevocationReason(enum.IntEnum):
    """CRLReason of RFC 5280 section 5.3.1, with its numbers."""

    UNSPECIFIED = 0
    KEY_COMPROMISE = 1
    CA_COMPROMISE = 2
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5
    CERTIFICATE_HOLD = 6
    REMOVE_FROM_CRL = 8
    PRIVILEGE_WITHDRAWN = 9
    AA_COMPROMISE = 10


FINAL_REASONS = frozenset(RevocationReason) - {RevocationReason.CERTIFICATE_HOLD, RevocationReason.REMOVE_FROM_CRL}
"""Reasons of a revocation that stays; a hold is :func:`~pkiserver.store.certificates.hold`, and removeFromCRL only
says in a delta CRL that one ended."""
COMPROMISES = frozenset(
    {RevocationReason.KEY_COMPROMISE, RevocationReason.CA_COMPROMISE, RevocationReason.AA_COMPROMISE}
)


@attrs.frozen
class Revocation:
    """Why and since when a certificate is revoked or held; ``invalidity_date`` as in RFC 5280 section 5.3.2."""

    reason: RevocationReason
    at: datetime
    invalidity_date: datetime | None


@attrs.frozen
class NewIntent:
    """A certificate about to be signed. ``tbs`` is its TBSCertificate in DER, ``subject`` its RFC 4514 text.

    ``holder`` names the process that prepares it, so that another one does not take it for abandoned. ``ca`` says
    whether it is a CA's, ``crl_shard`` which shard of its issuer's CRL it names, if any: so they stay for good.
    ``asked`` says that its signature is asked for with it, so that no :func:`mark_asked` follows.
    """

    issuer_id: int
    generation_id: int
    serial: int
    tbs: bytes
    subject: str
    sans: tuple[San, ...]
    not_before: datetime
    not_after: datetime
    template: str
    requester: str
    protocol: str
    request_id: str
    spki_sha256: bytes
    holder: str
    created: datetime
    ca: bool = False
    crl_shard: int | None = None
    asked: bool = False


@attrs.frozen
class Intent:
    """A certificate under way, as recovery sees it; ``state`` is PREPARED or ASKED."""

    id: int
    issuer_id: int
    generation_id: int
    serial: int
    state: CertificateState
    tbs: bytes
    subject: str
    sans: tuple[San, ...]
    not_before: datetime
    not_after: datetime
    template: str
    requester: str
    protocol: str
    request_id: str
    spki_sha256: bytes
    holder: str
    created: datetime


@attrs.frozen
class Certificate:
    """A settled certificate: ISSUED, REVOKED, HELD or BURNT.

    ``der`` is None where no signature is known: ``tbs`` is then what would have been, or may have been, signed.
    ``fingerprint`` is the SHA-256 of ``der``. ``revocation`` is there when REVOKED or HELD.
    """

    id: int
    issuer_id: int
    generation_id: int
    serial: int
    state: CertificateState
    tbs: bytes | None
    der: bytes | None
    subject: str
    sans: tuple[San, ...]
    not_before: datetime
    not_after: datetime
    template: str
    requester: str
    protocol: str
    request_id: str
    fingerprint: bytes | None
    spki_sha256: bytes
    revocation: Revocation | None
    replaced_by: int | None
    created: datetime
    settled: datetime


@attrs.frozen
class CertificateStatus:
    """What an OCSP responder needs to know about a serial (RFC 6960)."""

    id: int
    generation_id: int
    state: CertificateState
    revocation: Revocation | None
    not_after: datetime


@attrs.frozen
class RevokedEntry:
    """One entry of a CRL (RFC 5280 section 5.3)."""

    serial: int
    reason: RevocationReason
    revoked_at: datetime
    invalidity_date: datetime | None
    not_after: datetime


def serial_octets(serial: int) -> bytes:
    """A serial as stored: unsigned, big-endian, no leading zero octet.

    Raises:
        ValueError: the serial is not positive or is longer than the 20 octets of RFC 5280 section 4.1.2.2.
    """
    if serial <= 0 or serial.bit_length() > 159:
        raise ValueError("a serial is positive and fits 20 octets in DER")
    return serial.to_bytes((serial.bit_length() + 7) // 8, "big")


def serial_number(octets: bytes) -> int:
    """The serial behind its stored form."""
    return int.from_bytes(octets, "big")
