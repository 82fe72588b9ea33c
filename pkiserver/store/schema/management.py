"""The tables of management: administrators and their certificates, votes and operations of dual control, seats."""

from __future__ import annotations

from sqlalchemy import Index, Table, UniqueConstraint

from pkiserver.store.schema.columns import (
    flag,
    metadata,
    moment,
    number,
    octets,
    ordered,
    partial_index,
    row_number,
    small,
    text,
)

administrator = Table(
    "administrator",
    metadata,
    ordered("name", key=True),
    text("roles"),
    text("authorities"),
    text("templates"),
    text("groups"),
    ordered("account", optional=True),
    flag("disabled"),
    moment("created"),
    text("created_by"),
)

administrator_certificate = Table(
    "administrator_certificate",
    metadata,
    octets("fingerprint", key=True),
    ordered("administrator"),
    moment("not_after"),
    moment("created"),
    text("created_by"),
    Index("ix_administrator_certificate_administrator", "administrator"),
)

approval_vote = Table(
    "approval_vote",
    metadata,
    ordered("kind", key=True),
    number("number", key=True),
    ordered("voter", key=True),
    flag("approved"),
    text("reason"),
    moment("at"),
    octets("mac"),
    text("actor", optional=True),
)

operation = Table(
    "operation",
    metadata,
    row_number(),
    ordered("kind"),
    ordered("object"),
    text("payload"),
    octets("digest"),
    ordered("state"),
    text("reason"),
    text("requested_by"),
    small("needed"),
    text("approvers"),
    moment("created"),
    moment("expires"),
    moment("settled", optional=True),
    text("outcome"),
    Index("ix_operation_state", "state", "id"),
    sqlite_autoincrement=True,
)

seat = Table(
    "seat",
    metadata,
    row_number(),
    ordered("template"),
    ordered("identity"),
    flag("archived"),
    ordered("owner", optional=True),
    text("metadata"),
    moment("created"),
    moment("first_success", optional=True),
    moment("last_success", optional=True),
    UniqueConstraint("template", "identity"),
    number("place", optional=True),
    Index("ix_seat_template", "template", "id"),
    Index("ix_seat_place", "template", "place"),
    partial_index("ix_seat_archived", "template", where="archived"),
    Index("ix_seat_identity", "identity", "id"),
    Index("ix_seat_owner", "owner", "id"),
    sqlite_autoincrement=True,
)

seat_slot = Table(
    "seat_slot",
    metadata,
    number("seat_id", key=True),
    small("number", key=True),
    ordered("mode"),
    text("device"),
    ordered("signature", optional=True),
    moment("learned", optional=True),
    moment("last_used", optional=True),
    moment("open_until", optional=True),
)

seat_certificate = Table(
    "seat_certificate",
    metadata,
    number("seat_id", key=True),
    number("certificate_id", key=True),
    small("slot", optional=True),
    moment("at"),
    moment("ends", optional=True),
    Index("ix_seat_certificate_certificate", "certificate_id"),
    Index("ix_seat_certificate_ends", "seat_id", "ends"),
)

seat_event = Table(
    "seat_event",
    metadata,
    row_number(),
    number("seat_id"),
    moment("at"),
    text("actor"),
    text("what"),
    Index("ix_seat_event_seat", "seat_id", "id"),
)
