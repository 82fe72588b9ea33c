"""The address book's tables: an index of names, what changed, who opted out, signed capabilities, external contacts.

Certificates themselves are found by mail address through ``certificate_san``; nothing of them is copied here.
"""

from __future__ import annotations

from sqlalchemy import Index, Table

from pkiserver.store.schema.columns import metadata, moment, number, octets, ordered, row_number, text

addressbook_key = Table(
    "addressbook_key",
    metadata,
    ordered("kind", key=True),
    ordered("value", key=True),
    number("certificate_id", key=True),
    Index("ix_addressbook_key_certificate", "certificate_id"),
    sqlite_with_rowid=False,
)

addressbook_change = Table(
    "addressbook_change",
    metadata,
    number("seq", key=True),
    ordered("address"),
)

addressbook_opt_out = Table(
    "addressbook_opt_out",
    metadata,
    ordered("address", key=True),
    text("author"),
    moment("since"),
)

addressbook_smime = Table(
    "addressbook_smime",
    metadata,
    ordered("address", key=True),
    octets("fingerprint"),
    octets("message"),
    moment("added"),
    octets("signer", optional=True),
)

addressbook_contact = Table(
    "addressbook_contact",
    metadata,
    row_number(),
    ordered("address", unique=True),
    text("details"),
    octets("certificates"),
    text("author"),
    moment("updated"),
    sqlite_autoincrement=True,
)

addressbook_contact_key = Table(
    "addressbook_contact_key",
    metadata,
    ordered("kind", key=True),
    ordered("value", key=True),
    number("contact_id", key=True),
    Index("ix_addressbook_contact_key_contact", "contact_id"),
    sqlite_with_rowid=False,
)
