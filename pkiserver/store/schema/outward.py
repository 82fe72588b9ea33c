"""What is to be brought to directories outside: one row for each thing and target, due at a time."""

from __future__ import annotations

from sqlalchemy import Index, Table

from pkiserver.store.schema.columns import metadata, moment, number, ordered, partial_index, small, text

outward_task = Table(
    "outward_task",
    metadata,
    ordered("target", key=True),
    ordered("subject", key=True),
    text("detail", optional=True),
    number("version"),
    moment("due"),
    small("attempts"),
    text("problem", optional=True),
    Index("ix_outward_task_due", "target", "due"),
    partial_index("ix_outward_task_problem", "target", where="problem IS NOT NULL"),
    sqlite_with_rowid=False,
)
