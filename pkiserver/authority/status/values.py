"""Revocation reasons by the names that RFC 5280 section 5.3.1 gives them."""

from __future__ import annotations

from pkiserver.store.certificates.values import RevocationReason

_NAMES = {
    RevocationReason.UNSPECIFIED: "unspecified",
    RevocationReason.KEY_COMPROMISE: "keyCompromise",
    RevocationReason.CA_COMPROMISE: "cACompromise",
    RevocationReason.AFFILIATION_CHANGED: "affiliationChanged",
    RevocationReason.SUPERSEDED: "superseded",
    RevocationReason.CESSATION_OF_OPERATION: "cessationOfOperation",
    RevocationReason.CERTIFICATE_HOLD: "certificateHold",
    RevocationReason.REMOVE_FROM_CRL: "removeFromCRL",
    RevocationReason.PRIVILEGE_WITHDRAWN: "privilegeWithdrawn",
    RevocationReason.AA_COMPROMISE: "aACompromise",
}

REASON_NAMES = tuple(_NAMES.values())


def reason_name(reason: RevocationReason) -> str:
    """The reason's ASN.1 name."""
    return _NAMES[reason]


def parse_reason(text: str) -> RevocationReason:
    """A reason from its name, whatever its case and with or without hyphens, or from its number.

    Raises:
        ValueError: with the allowed names.
    """
    wanted = text.strip()
    folded = wanted.replace("-", "").replace("_", "").lower()
    for reason, name in _NAMES.items():
        if folded == name.lower() or wanted == str(int(reason)):
            return reason
    raise ValueError(f"{text!r} is not a revocation reason (allowed: {', '.join(REASON_NAMES)})")
