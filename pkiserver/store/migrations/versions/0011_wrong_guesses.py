"""Wrong guesses, known to all workers and nodes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "wrong_guess",
        sa.Column("kind", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", ORDERED, nullable=False),
        sa.Column("ends", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_wrong_guess")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_wrong_guess_ends"), "wrong_guess", ["kind", "ends"], unique=False)
