"""The tables, as SQLAlchemy 2 Core metadata; the migrations make them, a test compares the two.

Three choices serve tables of a hundred million certificates:

* A certificate under way lives in ``certificate_intent``, a small table that stays in memory. Its row moves to
  ``certificate`` once, when it is settled, so that the large table's indexes are written once for each certificate,
  and not at every step (PostgreSQL writes every index again when an indexed row changes).
* ``certificate`` and its names carry no foreign keys: issuers and generations are never deleted, and checking
  them would make every process lock the same few rows at every certificate.
* Indexed text is folded to a bounded length (:mod:`pkiserver.store.names`), since PostgreSQL refuses index rows of
  more than 2,700 octets, and is compared by octets (collation C), so that a prefix is a range.
"""

from __future__ import annotations

from sqlalchemy import Index, Table, UniqueConstraint

from pkiserver.store.columns import (
    flag,
    identity,
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

issuer = Table(
    "issuer",
    metadata,
    row_number(),
    octets("dn_der", unique=True),
    text("dn_text"),
    moment("created"),
)

authority = Table(
    "authority",
    metadata,
    ordered("name", key=True),
    identity("issuer_id", of="issuer.id", index=True),
    text("config"),
    text("state"),
    moment("created"),
)

authority_generation = Table(
    "authority_generation",
    metadata,
    row_number(),
    ordered("authority", of="authority.name"),
    small("number"),
    octets("certificate", optional=True),
    ordered("key_name", optional=True),
    text("chain"),
    octets("ski", optional=True),
    text("state"),
    ordered("crl_path", optional=True),
    octets("new_with_old", optional=True),
    octets("old_with_new", optional=True),
    moment("created"),
    UniqueConstraint("authority", "number"),
    Index("ix_authority_generation_ski", "ski"),
)

signing_key = Table(
    "signing_key",
    metadata,
    ordered("name", key=True),
    text("uri"),
    octets("spki"),
    octets("spki_sha256", index=True),
    text("doors"),
    moment("created"),
)

config_object = Table(
    "config_object",
    metadata,
    ordered("kind", key=True),
    ordered("name", key=True),
    small("revision"),
    text("toml"),
    moment("updated"),
)

feed_clock = Table(
    "feed_clock",
    metadata,
    ordered("name", key=True),
    number("value"),
)

certificate_intent = Table(
    "certificate_intent",
    metadata,
    row_number(),
    number("issuer_id"),
    number("generation_id"),
    octets("serial"),
    text("state"),
    octets("tbs"),
    text("subject"),
    ordered("subject_key"),
    text("sans"),
    moment("not_before"),
    moment("not_after"),
    ordered("template"),
    ordered("requester"),
    text("protocol"),
    text("request_id"),
    octets("spki_sha256"),
    text("holder"),
    moment("created"),
    flag("ca", optional=True),
    small("crl_shard", optional=True),
    UniqueConstraint("serial", "issuer_id"),
    Index("ix_certificate_intent_subject_key", "subject_key"),
    Index("ix_certificate_intent_spki_sha256", "spki_sha256"),
    sqlite_autoincrement=True,
)

certificate = Table(
    "certificate",
    metadata,
    identity("id", key=True),
    number("issuer_id"),
    number("generation_id"),
    octets("serial"),
    text("state"),
    octets("tbs", optional=True),
    octets("der", optional=True),
    text("subject"),
    ordered("subject_key"),
    text("sans"),
    moment("not_before"),
    moment("not_after"),
    ordered("template"),
    ordered("requester"),
    text("protocol"),
    text("request_id"),
    octets("fingerprint", optional=True),
    octets("spki_sha256"),
    small("revocation_reason", optional=True),
    moment("revoked_at", optional=True),
    moment("invalidity_date", optional=True),
    number("replaced_by", optional=True),
    moment("created"),
    moment("settled"),
    flag("ca", optional=True),
    small("crl_shard", optional=True),
    UniqueConstraint("serial", "issuer_id"),
    Index("uq_certificate_fingerprint", "fingerprint", unique=True),
    Index("ix_certificate_subject", "subject_key", "id"),
    Index("ix_certificate_spki", "spki_sha256", "id"),
    Index("ix_certificate_template", "template", "id"),
    Index("ix_certificate_requester", "requester", "id"),
    Index("ix_certificate_expiry", "not_after", "id"),
    partial_index("ix_certificate_exceptional", "state", "id", where="state <> 'issued'"),
    partial_index("ix_certificate_revoked", "generation_id", "not_after", "id", where="revoked_at IS NOT NULL"),
    partial_index(
        "ix_certificate_revoked_shard",
        "generation_id",
        "crl_shard",
        "not_after",
        "id",
        where="revoked_at IS NOT NULL AND crl_shard IS NOT NULL",
    ),
    partial_index(
        "ix_certificate_revoked_template",
        "generation_id",
        "template",
        "not_after",
        "id",
        where="revoked_at IS NOT NULL",
    ),
)

certificate_san = Table(
    "certificate_san",
    metadata,
    ordered("kind", key=True),
    ordered("value", key=True),
    number("certificate_id", key=True),
    sqlite_with_rowid=False,
)

status_change = Table(
    "status_change",
    metadata,
    number("seq", key=True),
    number("issuer_id"),
    number("generation_id"),
    octets("serial"),
    text("status"),
    moment("at"),
)

account = Table(
    "account",
    metadata,
    ordered("name", key=True),
    text("password_hash", optional=True),
    text("groups"),
    text("attributes"),
    flag("disabled"),
    moment("created"),
)

enroll_code = Table(
    "enroll_code",
    metadata,
    row_number(),
    octets("keyed_hash", unique=True),
    ordered("template"),
    text("subject", optional=True),
    text("sans"),
    moment("expires", index=True),
    moment("spent_at", optional=True),
    number("certificate_id", optional=True),
    text("created_by"),
    moment("created"),
)

enrollment_request = Table(
    "enrollment_request",
    metadata,
    row_number(),
    ordered("template"),
    octets("csr", optional=True),
    octets("spki"),
    octets("payload"),
    ordered("state"),
    text("evidence"),
    text("reasons"),
    number("certificate_id", optional=True),
    moment("created"),
    moment("expires"),
    text("decided_by", optional=True),
    moment("decided_at", optional=True),
    octets("fingerprint"),
    small("needed", optional=True),
    text("approvers", optional=True),
    text("checks", optional=True),
    Index("ix_enrollment_request_state", "state", "id"),
    Index("ix_enrollment_request_fingerprint", "fingerprint", "id"),
    partial_index("uq_enrollment_request_open", "fingerprint", where="state = 'pending'", unique=True),
    sqlite_autoincrement=True,
)

scep_transaction = Table(
    "scep_transaction",
    metadata,
    ordered("template", key=True),
    ordered("transaction_id", key=True),
    ordered("kind", key=True),
    octets("spki_sha256"),
    octets("signer_sha256"),
    octets("asks"),
    number("request_number", optional=True),
    number("certificate_id", index=True, optional=True),
    octets("payload"),
    moment("created", index=True),
)

lease = Table(
    "lease",
    metadata,
    ordered("name", key=True),
    text("holder"),
    moment("expires"),
    number("fence"),
)

blocked_key = Table(
    "blocked_key",
    metadata,
    octets("spki_sha256", key=True),
    text("why"),
    moment("added"),
)

server_secret = Table(
    "server_secret",
    metadata,
    ordered("name", key=True),
    octets("value"),
    moment("created"),
)

audit_writer = Table(
    "audit_writer",
    metadata,
    row_number(),
    text("node"),
    text("worker"),
    moment("started"),
    number("head_seq"),
    octets("head_hash"),
    number("checkpoint_seq", optional=True),
    sqlite_autoincrement=True,
)

audit_event = Table(
    "audit_event",
    metadata,
    number("writer_id", key=True),
    number("seq", key=True),
    moment("at"),
    text("kind"),
    text("actor"),
    text("object"),
    text("outcome"),
    text("request_id", optional=True),
    text("details"),
    octets("prev_hash"),
    octets("hash"),
    Index("ix_audit_event_at", "at", "writer_id", "seq"),
)

audit_checkpoint = Table(
    "audit_checkpoint",
    metadata,
    number("id", key=True),
    moment("at"),
    text("heads"),
    octets("prev_hash"),
    octets("hash"),
    text("key_name"),
    text("scheme"),
    octets("signature"),
)

timestamp_block = Table(
    "timestamp_block",
    metadata,
    ordered("name", key=True),
    number("last"),
)

timestamp_entry = Table(
    "timestamp_entry",
    metadata,
    number("chain", key=True),
    number("number", key=True),
    ordered("unit"),
    moment("at"),
    octets("serial", index=True),
    text("imprint_hash"),
    octets("imprint"),
    octets("token_sha256"),
    octets("token", optional=True),
    octets("prev_hash"),
    octets("hash"),
)
