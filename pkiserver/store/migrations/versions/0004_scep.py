"""SCEP transactions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "scep_transaction",
        sa.Column("template", ORDERED, nullable=False),
        sa.Column("transaction_id", ORDERED, nullable=False),
        sa.Column("kind", ORDERED, nullable=False),
        sa.Column("spki_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("signer_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("asks", sa.LargeBinary(), nullable=False),
        sa.Column("request_number", sa.BigInteger(), nullable=True),
        sa.Column("certificate_id", sa.BigInteger(), nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("template", "transaction_id", "kind", name=op.f("pk_scep_transaction")),
    )
    op.create_index(op.f("ix_scep_transaction_created"), "scep_transaction", ["created"], unique=False)
    op.create_index(op.f("ix_scep_transaction_certificate_id"), "scep_transaction", ["certificate_id"], unique=False)
