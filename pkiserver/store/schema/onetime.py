"""One-time passwords that were sent by mail."""

from __future__ import annotations

from sqlalchemy import Index, Table

from pkiserver.store.schema.columns import metadata, moment, number, octets, ordered, row_number, small

one_time_password = Table(
    "one_time_password",
    metadata,
    row_number(),
    ordered("connector"),
    ordered("account"),
    octets("keyed_hash"),
    moment("created"),
    moment("expires"),
    small("tries"),
    moment("spent_at", optional=True),
    number("certificate_id", optional=True),
    Index("ix_one_time_password_account", "account", "connector", "created"),
    Index("ix_one_time_password_expires", "expires"),
)
