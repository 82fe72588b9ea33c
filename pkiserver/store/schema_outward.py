"""What is to be brought to directories outside: one row for each thing and target, due at a time."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, Table, Text, text

from pkiserver.store.schema import Micros, Ordered, metadata

outward_task = Table(
    "outward_task",
    metadata,
    Column("target", Ordered, primary_key=True),
    Column("subject", Ordered, primary_key=True),
    Column("detail", Text),
    Column("version", BigInteger, nullable=False),
    Column("due", Micros, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("problem", Text),
    Index("ix_outward_task_due", "target", "due"),
    Index(
        "ix_outward_task_problem",
        "target",
        sqlite_where=text("problem IS NOT NULL"),
        postgresql_where=text("problem IS NOT NULL"),
    ),
    sqlite_with_rowid=False,
)
