"""Tables of authorities that are not ours: the lists that tell of their certificates, and our responders' certificates.

A list is kept as an index in parts of about a megabyte, which each process holds in memory. ``revision`` says which
parts count: those of another revision are being written, or are to be removed.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary, Table, Text

from pkiserver.store.schema import Micros, Ordered, metadata

foreign_list = Table(
    "foreign_list",
    metadata,
    Column("authority", Ordered, primary_key=True),
    Column("source", Ordered, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("kind", Text),
    Column("number", Text),
    Column("base_number", Text),
    Column("scope", LargeBinary),
    Column("this_update", Micros),
    Column("next_update", Micros),
    Column("entries", BigInteger),
    Column("digest", LargeBinary),
    Column("etag", Text),
    Column("checked", Micros, nullable=False),
    Column("problem", Text, nullable=False),
)

foreign_part = Table(
    "foreign_part",
    metadata,
    Column("authority", Ordered, primary_key=True),
    Column("source", Ordered, primary_key=True),
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("part", BigInteger, primary_key=True, autoincrement=False),
    Column("octets", LargeBinary, nullable=False),
)

foreign_responder = Table(
    "foreign_responder",
    metadata,
    Column("key_name", Ordered, primary_key=True),
    Column("authority", Ordered, nullable=False, index=True),
    Column("certificate", LargeBinary, nullable=False),
    Column("installed", Micros, nullable=False),
)
