"""Alembic's entry: runs the revisions on the connection that :mod:`pkiserver.store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from pkiserver.store.schema.columns import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
