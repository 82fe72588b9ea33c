"""What a public key has been certified for: asked before a key is used again or destroyed."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, func, select

from pkiserver.store.schema.certificates import certificate, certificate_intent
from pkiserver.store.times import from_micros


def certified_until(connection: Connection, spki_sha256: bytes) -> datetime | None:
    """The latest end of all certificates of a key, whatever their state, those under way included; None without any."""
    ends = [
        connection.execute(select(func.max(table.c.not_after)).where(table.c.spki_sha256 == spki_sha256)).scalar()
        for table in (certificate, certificate_intent)
    ]
    known = [end for end in ends if end is not None]
    return from_micros(max(known)) if known else None
