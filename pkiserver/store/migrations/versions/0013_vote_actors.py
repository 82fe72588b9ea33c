"""Who cast a vote, as the audit log has them: a vote is worth what its voter is when it is counted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the column; votes that were cast before have none."""
    op.add_column("approval_vote", sa.Column("actor", sa.Text(), nullable=True))
