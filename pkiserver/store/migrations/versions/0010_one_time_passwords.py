"""One-time passwords that were sent by mail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "one_time_password",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("connector", ORDERED, nullable=False),
        sa.Column("account", ORDERED, nullable=False),
        sa.Column("keyed_hash", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("spent_at", sa.BigInteger(), nullable=True),
        sa.Column("certificate_id", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_one_time_password")),
    )
    columns = ["account", "connector", "created"]
    op.create_index(op.f("ix_one_time_password_account"), "one_time_password", columns, unique=False)
    op.create_index(op.f("ix_one_time_password_expires"), "one_time_password", ["expires"], unique=False)
