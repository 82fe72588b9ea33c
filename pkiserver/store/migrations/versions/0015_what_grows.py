"""Indexes and ends, so that what an old server keeps is not read again for each request and by each clean-up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add columns, fill them for the rows that there are, and index them."""
    _requests()
    op.drop_index("ix_certificate_template", "certificate")
    op.create_index("ix_certificate_template", "certificate", ["template", "generation_id", "id"], unique=False)
    op.create_index("ix_enroll_code_template", "enroll_code", ["template", "id"], unique=False)
    _partial("ix_enroll_code_certificate", "enroll_code", ["certificate_id"], "certificate_id IS NOT NULL")
    _scep()
    _seats()
    columns = ["kind", "at", "writer_id", "seq"]
    _partial("ix_audit_event_settings", "audit_event", columns, "kind IN ('account', 'configuration')")
    op.create_index("ix_crl_begin", "crl", ["scope_id", "kind", "this_update", "number"], unique=False)
    op.create_index("ix_crl_end", "crl", ["scope_id", "kind", "next_update", "number", "this_update"], unique=False)


def _requests() -> None:
    table = "enrollment_request"
    op.add_column(table, sa.Column("nameless_site", ORDERED, nullable=True))
    # whence they came is not told apart: they count for their template alone, for as long as they wait
    op.execute(
        "UPDATE enrollment_request SET nameless_site = '' WHERE state = 'pending'"
        " AND (evidence LIKE 'anonymous by %' OR evidence LIKE 'self-signed:%')"
    )
    op.create_index("ix_enrollment_request_template", table, ["template", "state", "id"], unique=False)
    _partial("ix_enrollment_request_open", table, ["expires"], "state NOT IN ('denied', 'expired', 'issued')")
    _partial("ix_enrollment_request_ended", table, ["expires"], "state NOT IN ('pending', 'approved')")
    _partial(
        "ix_enrollment_request_nameless",
        table,
        ["template", "nameless_site", "expires"],
        "state = 'pending' AND nameless_site IS NOT NULL",
    )


def _scep() -> None:
    table = "scep_transaction"
    op.add_column(table, sa.Column("ends", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE scep_transaction SET ends = COALESCE("
        "(SELECT not_after FROM certificate WHERE certificate.id = scep_transaction.certificate_id),"
        " (SELECT not_after FROM certificate_intent WHERE certificate_intent.id = scep_transaction.certificate_id),"
        " (SELECT expires FROM enrollment_request WHERE enrollment_request.id = scep_transaction.request_number),"
        " created)"
    )
    op.drop_index("ix_scep_transaction_created", table)
    op.create_index("ix_scep_transaction_ends", table, ["ends"], unique=False)
    _partial("ix_scep_transaction_renewals", table, ["template", "transaction_id", "created"], "kind <> ''")


def _seats() -> None:
    op.add_column("seat", sa.Column("place", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE seat SET place = places.place FROM (SELECT id, row_number()"
        " OVER (PARTITION BY template ORDER BY id) AS place FROM seat) AS places WHERE places.id = seat.id"
    )
    op.create_index("ix_seat_template", "seat", ["template", "id"], unique=False)
    op.create_index("ix_seat_place", "seat", ["template", "place"], unique=False)
    _partial("ix_seat_archived", "seat", ["template"], "archived")
    op.add_column("seat_certificate", sa.Column("ends", sa.BigInteger(), nullable=True))
    op.execute(
        "UPDATE seat_certificate SET ends = COALESCE("
        "(SELECT not_after FROM certificate WHERE certificate.id = seat_certificate.certificate_id),"
        " (SELECT not_after FROM certificate_intent WHERE certificate_intent.id = seat_certificate.certificate_id))"
    )
    op.create_index("ix_seat_certificate_ends", "seat_certificate", ["seat_id", "ends"], unique=False)


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    predicate = sa.text(where)
    op.create_index(name, table, columns, unique=False, sqlite_where=predicate, postgresql_where=predicate)
