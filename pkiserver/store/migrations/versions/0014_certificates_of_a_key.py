"""A key that was certified very often: whose certificates, and whether one was revoked, without reading them all."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Give the index over keys the subjects, and the revoked ones an index of their own."""
    op.drop_index("ix_certificate_spki", "certificate")
    op.create_index("ix_certificate_spki", "certificate", ["spki_sha256", "id", "subject_key"], unique=False)
    op.create_index(
        "ix_certificate_revoked_key",
        "certificate",
        ["spki_sha256", "revocation_reason"],
        unique=False,
        sqlite_where=sa.text("revoked_at IS NOT NULL"),
        postgresql_where=sa.text("revoked_at IS NOT NULL"),
    )
