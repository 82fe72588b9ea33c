"""Tables of time-stamping: blocks of serial numbers, and the log of tokens."""

from __future__ import annotations

from sqlalchemy import Table

from pkiserver.store.schema.columns import metadata, moment, number, octets, ordered, text

timestamp_block = Table(
    "timestamp_block",
    metadata,
    ordered("name", key=True),
    number("last"),
)

timestamp_entry = Table(
    "timestamp_entry",
    metadata,
    number("chain", key=True),
    number("number", key=True),
    ordered("unit"),
    moment("at"),
    octets("serial", index=True),
    text("imprint_hash"),
    octets("imprint"),
    octets("token_sha256"),
    octets("token", optional=True),
    octets("prev_hash"),
    octets("hash"),
)
