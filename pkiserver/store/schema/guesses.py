"""Wrong guesses, and who was right lately: what all workers and nodes know together."""

from __future__ import annotations

from sqlalchemy import Index, Table

from pkiserver.store.schema.columns import metadata, moment, ordered, small

wrong_guess = Table(
    "wrong_guess",
    metadata,
    small("kind", key=True),
    ordered("name", key=True),
    moment("ends"),
    moment("at"),
    Index("ix_wrong_guess_ends", "kind", "ends"),
    sqlite_with_rowid=False,
)
