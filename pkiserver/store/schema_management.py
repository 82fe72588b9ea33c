"""The tables of management: administrators and their certificates, votes and operations of dual control, seats."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, Table, Text, UniqueConstraint

from pkiserver.store.schema import Identity, Micros, Ordered, metadata

administrator = Table(
    "administrator",
    metadata,
    Column("name", Ordered, primary_key=True),
    Column("roles", Text, nullable=False),
    Column("authorities", Text, nullable=False),
    Column("templates", Text, nullable=False),
    Column("groups", Text, nullable=False),
    Column("account", Ordered),
    Column("disabled", Boolean, nullable=False),
    Column("created", Micros, nullable=False),
    Column("created_by", Text, nullable=False),
)

administrator_certificate = Table(
    "administrator_certificate",
    metadata,
    Column("fingerprint", LargeBinary, primary_key=True),
    Column("administrator", Ordered, nullable=False),
    Column("not_after", Micros, nullable=False),
    Column("created", Micros, nullable=False),
    Column("created_by", Text, nullable=False),
    Index("ix_administrator_certificate_administrator", "administrator"),
)

approval_vote = Table(
    "approval_vote",
    metadata,
    Column("kind", Ordered, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("voter", Ordered, primary_key=True),
    Column("approved", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Micros, nullable=False),
    Column("mac", LargeBinary, nullable=False),
)

operation = Table(
    "operation",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("kind", Ordered, nullable=False),
    Column("object", Ordered, nullable=False),
    Column("payload", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("state", Ordered, nullable=False),
    Column("reason", Text, nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("needed", Integer, nullable=False),
    Column("approvers", Text, nullable=False),
    Column("created", Micros, nullable=False),
    Column("expires", Micros, nullable=False),
    Column("settled", Micros),
    Column("outcome", Text, nullable=False),
    Index("ix_operation_state", "state", "id"),
    sqlite_autoincrement=True,
)

seat = Table(
    "seat",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("template", Ordered, nullable=False),
    Column("identity", Ordered, nullable=False),
    Column("archived", Boolean, nullable=False),
    Column("owner", Ordered),
    Column("metadata", Text, nullable=False),
    Column("created", Micros, nullable=False),
    Column("first_success", Micros),
    Column("last_success", Micros),
    UniqueConstraint("template", "identity"),
    Index("ix_seat_identity", "identity", "id"),
    Index("ix_seat_owner", "owner", "id"),
    sqlite_autoincrement=True,
)

seat_slot = Table(
    "seat_slot",
    metadata,
    Column("seat_id", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("mode", Ordered, nullable=False),
    Column("device", Text, nullable=False),
    Column("signature", Ordered),
    Column("learned", Micros),
    Column("last_used", Micros),
    Column("open_until", Micros),
)

seat_certificate = Table(
    "seat_certificate",
    metadata,
    Column("seat_id", BigInteger, primary_key=True, autoincrement=False),
    Column("certificate_id", BigInteger, primary_key=True, autoincrement=False),
    Column("slot", Integer),
    Column("at", Micros, nullable=False),
    Index("ix_seat_certificate_certificate", "certificate_id"),
)

seat_event = Table(
    "seat_event",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("seat_id", BigInteger, nullable=False),
    Column("at", Micros, nullable=False),
    Column("actor", Text, nullable=False),
    Column("what", Text, nullable=False),
    Index("ix_seat_event_seat", "seat_id", "id"),
)
