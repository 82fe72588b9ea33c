"""SQL: schema, migrations, one module of plain query functions for each aggregate.

Every query function takes a :class:`sqlalchemy.Connection` as :meth:`pkiserver.store.database.Database.read` and
:meth:`~pkiserver.store.database.Database.write` hand it out, and speaks in frozen values, never in rows.
"""
