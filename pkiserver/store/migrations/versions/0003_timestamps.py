"""Blocks of time-stamp serial numbers, and the log of tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "timestamp_block",
        sa.Column("name", ORDERED, nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_timestamp_block")),
    )
    op.create_table(
        "timestamp_entry",
        sa.Column("chain", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("unit", ORDERED, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("serial", sa.LargeBinary(), nullable=False),
        sa.Column("imprint_hash", sa.Text(), nullable=False),
        sa.Column("imprint", sa.LargeBinary(), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("token", sa.LargeBinary(), nullable=True),
        sa.Column("prev_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("chain", "number", name=op.f("pk_timestamp_entry")),
    )
    op.create_index(op.f("ix_timestamp_entry_serial"), "timestamp_entry", ["serial"], unique=False)
