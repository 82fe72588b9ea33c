"""Administrators, votes and operations of dual control, seats."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables, and the request columns of approvals by several."""
    _administrators()
    _votes()
    _operations()
    _seats()
    _seat_details()
    for column in (
        sa.Column("needed", sa.Integer(), nullable=True),
        sa.Column("approvers", sa.Text(), nullable=True),
        sa.Column("checks", sa.Text(), nullable=True),
    ):
        op.add_column("enrollment_request", column)


def _administrators() -> None:
    op.create_table(
        "administrator",
        sa.Column("name", ORDERED, nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("authorities", sa.Text(), nullable=False),
        sa.Column("templates", sa.Text(), nullable=False),
        sa.Column("groups", sa.Text(), nullable=False),
        sa.Column("account", ORDERED, nullable=True),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_administrator")),
    )
    op.create_table(
        "administrator_certificate",
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("administrator", ORDERED, nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_administrator_certificate")),
    )
    op.create_index(
        "ix_administrator_certificate_administrator", "administrator_certificate", ["administrator"], unique=False
    )


def _votes() -> None:
    op.create_table(
        "approval_vote",
        sa.Column("kind", ORDERED, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("voter", ORDERED, nullable=False),
        sa.Column("approved", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("mac", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "number", "voter", name=op.f("pk_approval_vote")),
    )


def _operations() -> None:
    op.create_table(
        "operation",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("kind", ORDERED, nullable=False),
        sa.Column("object", ORDERED, nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("state", ORDERED, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("needed", sa.Integer(), nullable=False),
        sa.Column("approvers", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("expires", sa.BigInteger(), nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operation")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_operation_state", "operation", ["state", "id"], unique=False)


def _seats() -> None:
    op.create_table(
        "seat",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("template", ORDERED, nullable=False),
        sa.Column("identity", ORDERED, nullable=False),
        sa.Column("archived", sa.Boolean(), nullable=False),
        sa.Column("owner", ORDERED, nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("first_success", sa.BigInteger(), nullable=True),
        sa.Column("last_success", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_seat")),
        sa.UniqueConstraint("template", "identity", name=op.f("uq_seat_template_identity")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_seat_identity", "seat", ["identity", "id"], unique=False)
    op.create_index("ix_seat_owner", "seat", ["owner", "id"], unique=False)


def _seat_details() -> None:
    op.create_table(
        "seat_slot",
        sa.Column("seat_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("mode", ORDERED, nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("signature", ORDERED, nullable=True),
        sa.Column("learned", sa.BigInteger(), nullable=True),
        sa.Column("last_used", sa.BigInteger(), nullable=True),
        sa.Column("open_until", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("seat_id", "number", name=op.f("pk_seat_slot")),
    )
    op.create_table(
        "seat_certificate",
        sa.Column("seat_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("certificate_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seat_id", "certificate_id", name=op.f("pk_seat_certificate")),
    )
    op.create_index("ix_seat_certificate_certificate", "seat_certificate", ["certificate_id"], unique=False)
    op.create_table(
        "seat_event",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("seat_id", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_seat_event")),
    )
    op.create_index("ix_seat_event_seat", "seat_event", ["seat_id", "id"], unique=False)
