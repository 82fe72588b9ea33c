"""What a CRL covers, with its URLs; deliveries of CRLs; what the server finds when it reads itself back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
REVOKED = "revoked_at IS NOT NULL"
IN_SHARD = "revoked_at IS NOT NULL AND crl_shard IS NOT NULL"


def upgrade() -> None:
    """Add columns, indexes and tables."""
    for table in ("certificate_intent", "certificate"):
        op.add_column(table, sa.Column("ca", sa.Boolean(), nullable=True))
        op.add_column(table, sa.Column("crl_shard", sa.Integer(), nullable=True))
    op.create_index(
        "ix_certificate_revoked_shard",
        "certificate",
        ["generation_id", "crl_shard", "not_after", "id"],
        sqlite_where=sa.text(IN_SHARD),
        postgresql_where=sa.text(IN_SHARD),
    )
    op.create_index(
        "ix_certificate_revoked_template",
        "certificate",
        ["generation_id", "template", "not_after", "id"],
        sqlite_where=sa.text(REVOKED),
        postgresql_where=sa.text(REVOKED),
    )
    for column in (
        sa.Column("covers", sa.Text(), nullable=True),
        sa.Column("shard", sa.Integer(), nullable=True),
        sa.Column("template", ORDERED, nullable=True),
        sa.Column("bounded", sa.Boolean(), nullable=True),
        sa.Column("urls", sa.Text(), nullable=True),
        sa.Column("since", sa.BigInteger(), nullable=True),
        sa.Column("announced", sa.Boolean(), nullable=True),
    ):
        op.add_column("crl_scope", column)
    op.create_table(
        "crl_delivery",
        sa.Column("target", ORDERED, nullable=False),
        sa.Column("scope_id", IDENTITY, nullable=False),
        sa.Column("kind", ORDERED, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("delivered", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_try", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["scope_id"], ["crl_scope.id"], name=op.f("fk_crl_delivery_scope_id")),
        sa.PrimaryKeyConstraint("target", "scope_id", "kind", name=op.f("pk_crl_delivery")),
    )
    op.create_table(
        "self_check",
        sa.Column("node", ORDERED, nullable=False),
        sa.Column("subject", ORDERED, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("node", "subject", name=op.f("pk_self_check")),
    )
    _mark_authorities()


def _mark_authorities() -> None:
    """CA certificates by their basic constraints, critical and with cA: without and with a path length below 128."""
    is_postgresql = op.get_context().dialect.name == "postgresql"
    find = "position(decode('{}', 'hex') in {}) > 0" if is_postgresql else "instr({1}, X'{0}') > 0"
    shapes = ("0603551d130101ff040530030101ff", "0603551d130101ff040830060101ff0201")
    for table, column in (("certificate", "der"), ("certificate", "tbs"), ("certificate_intent", "tbs")):
        where = " OR ".join(find.format(shape, column) for shape in shapes)
        op.execute(f"UPDATE {table} SET ca = true WHERE {where}")  # noqa: S608  # all of it is from here
