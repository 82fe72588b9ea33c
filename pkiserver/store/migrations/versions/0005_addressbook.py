"""The address book."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables and start the feed."""
    _keys("addressbook_key", "certificate_id", "ix_addressbook_key_certificate")
    op.create_table(
        "addressbook_change",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("address", ORDERED, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_addressbook_change")),
    )
    op.create_table(
        "addressbook_opt_out",
        sa.Column("address", ORDERED, nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("address", name=op.f("pk_addressbook_opt_out")),
    )
    op.create_table(
        "addressbook_smime",
        sa.Column("address", ORDERED, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("message", sa.LargeBinary(), nullable=False),
        sa.Column("added", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("address", name=op.f("pk_addressbook_smime")),
    )
    op.create_table(
        "addressbook_contact",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("address", ORDERED, nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("certificates", sa.LargeBinary(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_addressbook_contact")),
        sa.UniqueConstraint("address", name=op.f("uq_addressbook_contact_address")),
        sqlite_autoincrement=True,
    )
    _keys("addressbook_contact_key", "contact_id", "ix_addressbook_contact_key_contact")
    op.execute("INSERT INTO feed_clock (name, value) VALUES ('addressbook', 0)")


def _keys(table: str, target: str, index: str) -> None:
    op.create_table(
        table,
        sa.Column("kind", ORDERED, nullable=False),
        sa.Column("value", ORDERED, nullable=False),
        sa.Column(target, sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("kind", "value", target, name=op.f(f"pk_{table}")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f(index), table, [target], unique=False)
