"""What a key may be used for. A key is bound to its doors when it is created; there is no "sign this digest" door."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from pkiserver.foundation.errors import Refusal, Rejected


class Door(enum.StrEnum):
    """One typed use of a private key.

    Proof of possession (a certification request about the key's own public half, RFC 2986) needs no door.
    """

    CERTIFICATE = "certificate"
    CRL = "crl"
    OCSP = "ocsp"
    TIMESTAMP = "timestamp"
    CMS = "cms"
    CMP = "cmp"
    CHECKPOINT = "checkpoint"
    OPEN = "open"


def parse_doors(text: str) -> frozenset[Door]:
    """Doors from a comma-separated list; raises :class:`Rejected` naming each unknown one and the allowed ones."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in Door.__members__.values()]
    if unknown or not names:
        allowed = ", ".join(Door)
        what = f"unknown doors {', '.join(unknown)}" if unknown else "a key needs at least one door"
        raise Rejected.because(Refusal.CONFIGURATION, f"{what} (allowed: {allowed})")
    return frozenset(Door(name) for name in names)


def format_doors(doors: Iterable[Door]) -> str:
    """The stable text form of a set of doors: their names in order of declaration, separated by commas."""
    chosen = set(doors)
    return ",".join(door for door in Door if door in chosen)
