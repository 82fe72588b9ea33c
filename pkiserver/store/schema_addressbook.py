"""The address book's tables: an index of names, what changed, who opted out, signed capabilities, external contacts.

Certificates themselves are found by mail address through ``certificate_san``; nothing of them is copied here.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Table, Text

from pkiserver.store.schema import Identity, Micros, Ordered, metadata

addressbook_key = Table(
    "addressbook_key",
    metadata,
    Column("kind", Ordered, primary_key=True),
    Column("value", Ordered, primary_key=True),
    Column("certificate_id", BigInteger, primary_key=True, autoincrement=False),
    Index("ix_addressbook_key_certificate", "certificate_id"),
    sqlite_with_rowid=False,
)

addressbook_change = Table(
    "addressbook_change",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("address", Ordered, nullable=False),
)

addressbook_opt_out = Table(
    "addressbook_opt_out",
    metadata,
    Column("address", Ordered, primary_key=True),
    Column("author", Text, nullable=False),
    Column("since", Micros, nullable=False),
)

addressbook_smime = Table(
    "addressbook_smime",
    metadata,
    Column("address", Ordered, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("message", LargeBinary, nullable=False),
    Column("added", Micros, nullable=False),
    Column("signer", LargeBinary),
)

addressbook_contact = Table(
    "addressbook_contact",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("address", Ordered, nullable=False, unique=True),
    Column("details", Text, nullable=False),
    Column("certificates", LargeBinary, nullable=False),
    Column("author", Text, nullable=False),
    Column("updated", Micros, nullable=False),
    sqlite_autoincrement=True,
)

addressbook_contact_key = Table(
    "addressbook_contact_key",
    metadata,
    Column("kind", Ordered, primary_key=True),
    Column("value", Ordered, primary_key=True),
    Column("contact_id", BigInteger, primary_key=True, autoincrement=False),
    Index("ix_addressbook_contact_key_contact", "contact_id"),
    sqlite_with_rowid=False,
)
