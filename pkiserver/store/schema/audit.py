"""The audit log's tables: writers with their heads, events, checkpoints."""

from __future__ import annotations

from sqlalchemy import Index, Table

from pkiserver.store.schema.columns import metadata, moment, number, octets, partial_index, row_number, text

audit_writer = Table(
    "audit_writer",
    metadata,
    row_number(),
    text("node"),
    text("worker"),
    moment("started"),
    number("head_seq"),
    octets("head_hash"),
    number("checkpoint_seq", optional=True),
    sqlite_autoincrement=True,
)

audit_event = Table(
    "audit_event",
    metadata,
    number("writer_id", key=True),
    number("seq", key=True),
    moment("at"),
    text("kind"),
    text("actor"),
    text("object"),
    text("outcome"),
    text("request_id", optional=True),
    text("details"),
    octets("prev_hash"),
    octets("hash"),
    Index("ix_audit_event_at", "at", "writer_id", "seq"),
    partial_index(
        "ix_audit_event_settings", "kind", "at", "writer_id", "seq", where="kind IN ('account', 'configuration')"
    ),
)

audit_checkpoint = Table(
    "audit_checkpoint",
    metadata,
    number("id", key=True),
    moment("at"),
    text("heads"),
    octets("prev_hash"),
    octets("hash"),
    text("key_name"),
    text("scheme"),
    octets("signature"),
)
