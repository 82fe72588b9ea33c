"""Lists and responders of authorities that are not ours."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "foreign_list",
        sa.Column("authority", ORDERED, nullable=False),
        sa.Column("source", ORDERED, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=True),
        sa.Column("number", sa.Text(), nullable=True),
        sa.Column("base_number", sa.Text(), nullable=True),
        sa.Column("scope", sa.LargeBinary(), nullable=True),
        sa.Column("this_update", sa.BigInteger(), nullable=True),
        sa.Column("next_update", sa.BigInteger(), nullable=True),
        sa.Column("entries", sa.BigInteger(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.Column("etag", sa.Text(), nullable=True),
        sa.Column("checked", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("authority", "source", name=op.f("pk_foreign_list")),
    )
    op.create_table(
        "foreign_part",
        sa.Column("authority", ORDERED, nullable=False),
        sa.Column("source", ORDERED, nullable=False),
        sa.Column("revision", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("part", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("octets", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("authority", "source", "revision", "part", name=op.f("pk_foreign_part")),
    )
    op.create_table(
        "foreign_responder",
        sa.Column("key_name", ORDERED, nullable=False),
        sa.Column("authority", ORDERED, nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("installed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_name", name=op.f("pk_foreign_responder")),
    )
    op.create_index(op.f("ix_foreign_responder_authority"), "foreign_responder", ["authority"], unique=False)
