"""What is to be brought to directories outside; whose key signed a userSMIMECertificate."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the queue; of messages kept before, the signer is the certificate that they announce."""
    op.add_column("addressbook_smime", sa.Column("signer", sa.LargeBinary(), nullable=True))
    op.create_table(
        "outward_task",
        sa.Column("target", ORDERED, nullable=False),
        sa.Column("subject", ORDERED, nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("target", "subject", name=op.f("pk_outward_task")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_outward_task_due"), "outward_task", ["target", "due"], unique=False)
    failed = sa.text("problem IS NOT NULL")
    op.create_index(
        op.f("ix_outward_task_problem"),
        "outward_task",
        ["target"],
        unique=False,
        sqlite_where=failed,
        postgresql_where=failed,
    )
