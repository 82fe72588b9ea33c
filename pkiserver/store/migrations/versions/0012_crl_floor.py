"""CRL numbers that may have been used although the database does not know it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "crl_floor",
        sa.Column("issuer_id", IDENTITY, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["issuer_id"], ["issuer.id"], name=op.f("fk_crl_floor_issuer_id")),
        sa.PrimaryKeyConstraint("issuer_id", name=op.f("pk_crl_floor")),
    )
