"""Tables of authorities that are not ours: the lists that tell of their certificates, and our responders' certificates.

A list is kept as an index in parts of about a megabyte, which each process holds in memory. ``revision`` says which
parts count: those of another revision are being written, or are to be removed.
"""

from __future__ import annotations

from sqlalchemy import Table

from pkiserver.store.schema.columns import metadata, moment, number, octets, ordered, text

foreign_list = Table(
    "foreign_list",
    metadata,
    ordered("authority", key=True),
    ordered("source", key=True),
    number("revision"),
    text("kind", optional=True),
    text("number", optional=True),
    text("base_number", optional=True),
    octets("scope", optional=True),
    moment("this_update", optional=True),
    moment("next_update", optional=True),
    number("entries", optional=True),
    octets("digest", optional=True),
    text("etag", optional=True),
    moment("checked"),
    text("problem"),
)

foreign_part = Table(
    "foreign_part",
    metadata,
    ordered("authority", key=True),
    ordered("source", key=True),
    number("revision", key=True),
    number("part", key=True),
    octets("octets"),
)

foreign_responder = Table(
    "foreign_responder",
    metadata,
    ordered("key_name", key=True),
    ordered("authority", index=True),
    octets("certificate"),
    moment("installed"),
)
