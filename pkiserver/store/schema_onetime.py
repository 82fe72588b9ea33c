"""One-time passwords that were sent by mail."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, Table

from pkiserver.store.schema import Identity, Micros, Ordered, metadata

one_time_password = Table(
    "one_time_password",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("connector", Ordered, nullable=False),
    Column("account", Ordered, nullable=False),
    Column("keyed_hash", LargeBinary, nullable=False),
    Column("created", Micros, nullable=False),
    Column("expires", Micros, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("spent_at", Micros),
    Column("certificate_id", BigInteger),
    Index("ix_one_time_password_account", "account", "connector", "created"),
    Index("ix_one_time_password_expires", "expires"),
)
