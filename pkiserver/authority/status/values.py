"""Reasons and states of revocation, as values that every room may use."""

from __future__ import annotations

import enum
from datetime import datetime

import attrs


class RevocationReason(enum.StrEnum):
    """CRLReason (RFC 5280 section 5.3.1), by its ASN.1 name."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    CERTIFICATE_HOLD = "certificateHold"
    REMOVE_FROM_CRL = "removeFromCRL"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"
    AA_COMPROMISE = "aACompromise"

    @property
    def code(self) -> int:
        """The number on the wire."""
        return _CODES[self]

    @classmethod
    def from_code(cls, code: int) -> RevocationReason:
        """The reason with a number on the wire; raises :class:`ValueError` for 7 and what lies beyond 10."""
        for reason, number in _CODES.items():
            if number == code:
                return reason
        raise ValueError(f"{code} is not a revocation reason")

    @classmethod
    def parse(cls, text: str) -> RevocationReason:
        """Read a name, whatever its case and with or without hyphens, or a number; raises :class:`ValueError`."""
        folded = text.replace("-", "").replace("_", "").lower()
        for reason in cls:
            if folded in (reason.value.lower(), str(reason.code)):
                return reason
        raise ValueError(f"{text!r} is not a revocation reason (allowed: {', '.join(cls)})")


_CODES = {
    RevocationReason.UNSPECIFIED: 0,
    RevocationReason.KEY_COMPROMISE: 1,
    RevocationReason.CA_COMPROMISE: 2,
    RevocationReason.AFFILIATION_CHANGED: 3,
    RevocationReason.SUPERSEDED: 4,
    RevocationReason.CESSATION_OF_OPERATION: 5,
    RevocationReason.CERTIFICATE_HOLD: 6,
    RevocationReason.REMOVE_FROM_CRL: 8,
    RevocationReason.PRIVILEGE_WITHDRAWN: 9,
    RevocationReason.AA_COMPROMISE: 10,
}


@attrs.frozen
class CertificateStatus:
    """What is known about an issued certificate.

    Attributes:
        not_after: Its end, aware UTC.
        revoked_at: When it was revoked or put on hold; None while it is good.
        reason: The CRLReason number; 6 means on hold.
        invalidity_date: When its key is known or suspected to have become unsafe.
    """

    not_after: datetime
    revoked_at: datetime | None = None
    reason: int = 0
    invalidity_date: datetime | None = None
