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

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Identity = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by itself only where it reads INTEGER
Micros = BigInteger()
Ordered = Text().with_variant(Text(collation="C"), "postgresql")

issuer = Table(
    "issuer",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("dn_der", LargeBinary, nullable=False, unique=True),
    Column("dn_text", Text, nullable=False),
    Column("created", Micros, nullable=False),
)

authority = Table(
    "authority",
    metadata,
    Column("name", Ordered, primary_key=True),
    Column("issuer_id", Identity, ForeignKey("issuer.id"), nullable=False, index=True),
    Column("config", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created", Micros, nullable=False),
)

authority_generation = Table(
    "authority_generation",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("authority", Ordered, ForeignKey("authority.name"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("certificate", LargeBinary),
    Column("key_name", Ordered),
    Column("chain", Text, nullable=False),
    Column("ski", LargeBinary),
    Column("state", Text, nullable=False),
    Column("crl_path", Ordered),
    Column("new_with_old", LargeBinary),
    Column("old_with_new", LargeBinary),
    Column("created", Micros, nullable=False),
    UniqueConstraint("authority", "number"),
    Index("ix_authority_generation_ski", "ski"),
)

signing_key = Table(
    "signing_key",
    metadata,
    Column("name", Ordered, primary_key=True),
    Column("uri", Text, nullable=False),
    Column("spki", LargeBinary, nullable=False),
    Column("spki_sha256", LargeBinary, nullable=False, index=True),
    Column("doors", Text, nullable=False),
    Column("created", Micros, nullable=False),
)

config_object = Table(
    "config_object",
    metadata,
    Column("kind", Ordered, primary_key=True),
    Column("name", Ordered, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("toml", Text, nullable=False),
    Column("updated", Micros, nullable=False),
)

feed_clock = Table(
    "feed_clock",
    metadata,
    Column("name", Ordered, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

certificate_intent = Table(
    "certificate_intent",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("issuer_id", BigInteger, nullable=False),
    Column("generation_id", BigInteger, nullable=False),
    Column("serial", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("tbs", LargeBinary, nullable=False),
    Column("subject", Text, nullable=False),
    Column("subject_key", Ordered, nullable=False),
    Column("sans", Text, nullable=False),
    Column("not_before", Micros, nullable=False),
    Column("not_after", Micros, nullable=False),
    Column("template", Ordered, nullable=False),
    Column("requester", Ordered, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("spki_sha256", LargeBinary, nullable=False),
    Column("holder", Text, nullable=False),
    Column("created", Micros, nullable=False),
    Column("ca", Boolean),
    Column("crl_shard", Integer),
    UniqueConstraint("serial", "issuer_id"),
    Index("ix_certificate_intent_subject_key", "subject_key"),
    Index("ix_certificate_intent_spki_sha256", "spki_sha256"),
    sqlite_autoincrement=True,
)

certificate = Table(
    "certificate",
    metadata,
    Column("id", Identity, primary_key=True, autoincrement=False),
    Column("issuer_id", BigInteger, nullable=False),
    Column("generation_id", BigInteger, nullable=False),
    Column("serial", LargeBinary, nullable=False),
    Column("state", Text, nullable=False),
    Column("tbs", LargeBinary),
    Column("der", LargeBinary),
    Column("subject", Text, nullable=False),
    Column("subject_key", Ordered, nullable=False),
    Column("sans", Text, nullable=False),
    Column("not_before", Micros, nullable=False),
    Column("not_after", Micros, nullable=False),
    Column("template", Ordered, nullable=False),
    Column("requester", Ordered, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("fingerprint", LargeBinary),
    Column("spki_sha256", LargeBinary, nullable=False),
    Column("revocation_reason", Integer),
    Column("revoked_at", Micros),
    Column("invalidity_date", Micros),
    Column("replaced_by", BigInteger),
    Column("created", Micros, nullable=False),
    Column("settled", Micros, nullable=False),
    Column("ca", Boolean),
    Column("crl_shard", Integer),
    UniqueConstraint("serial", "issuer_id"),
    Index("uq_certificate_fingerprint", "fingerprint", unique=True),
    Index("ix_certificate_subject", "subject_key", "id"),
    Index("ix_certificate_spki", "spki_sha256", "id"),
    Index("ix_certificate_template", "template", "id"),
    Index("ix_certificate_requester", "requester", "id"),
    Index("ix_certificate_expiry", "not_after", "id"),
    Index(
        "ix_certificate_exceptional",
        "state",
        "id",
        sqlite_where=text("state <> 'issued'"),
        postgresql_where=text("state <> 'issued'"),
    ),
    Index(
        "ix_certificate_revoked",
        "generation_id",
        "not_after",
        "id",
        sqlite_where=text("revoked_at IS NOT NULL"),
        postgresql_where=text("revoked_at IS NOT NULL"),
    ),
    Index(
        "ix_certificate_revoked_shard",
        "generation_id",
        "crl_shard",
        "not_after",
        "id",
        sqlite_where=text("revoked_at IS NOT NULL AND crl_shard IS NOT NULL"),
        postgresql_where=text("revoked_at IS NOT NULL AND crl_shard IS NOT NULL"),
    ),
    Index(
        "ix_certificate_revoked_template",
        "generation_id",
        "template",
        "not_after",
        "id",
        sqlite_where=text("revoked_at IS NOT NULL"),
        postgresql_where=text("revoked_at IS NOT NULL"),
    ),
)

certificate_san = Table(
    "certificate_san",
    metadata,
    Column("kind", Ordered, primary_key=True),
    Column("value", Ordered, primary_key=True),
    Column("certificate_id", BigInteger, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

status_change = Table(
    "status_change",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("issuer_id", BigInteger, nullable=False),
    Column("generation_id", BigInteger, nullable=False),
    Column("serial", LargeBinary, nullable=False),
    Column("status", Text, nullable=False),
    Column("at", Micros, nullable=False),
)

account = Table(
    "account",
    metadata,
    Column("name", Ordered, primary_key=True),
    Column("password_hash", Text),
    Column("groups", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created", Micros, nullable=False),
)

enroll_code = Table(
    "enroll_code",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("keyed_hash", LargeBinary, nullable=False, unique=True),
    Column("template", Ordered, nullable=False),
    Column("subject", Text),
    Column("sans", Text, nullable=False),
    Column("expires", Micros, nullable=False, index=True),
    Column("spent_at", Micros),
    Column("certificate_id", BigInteger),
    Column("created_by", Text, nullable=False),
    Column("created", Micros, nullable=False),
)

enrollment_request = Table(
    "enrollment_request",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("template", Ordered, nullable=False),
    Column("csr", LargeBinary),
    Column("spki", LargeBinary, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("state", Ordered, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("reasons", Text, nullable=False),
    Column("certificate_id", BigInteger),
    Column("created", Micros, nullable=False),
    Column("expires", Micros, nullable=False),
    Column("decided_by", Text),
    Column("decided_at", Micros),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("needed", Integer),
    Column("approvers", Text),
    Column("checks", Text),
    Index("ix_enrollment_request_state", "state", "id"),
    Index("ix_enrollment_request_fingerprint", "fingerprint", "id"),
    Index(
        "uq_enrollment_request_open",
        "fingerprint",
        unique=True,
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
    sqlite_autoincrement=True,
)

scep_transaction = Table(
    "scep_transaction",
    metadata,
    Column("template", Ordered, primary_key=True),
    Column("transaction_id", Ordered, primary_key=True),
    Column("kind", Ordered, primary_key=True),
    Column("spki_sha256", LargeBinary, nullable=False),
    Column("signer_sha256", LargeBinary, nullable=False),
    Column("asks", LargeBinary, nullable=False),
    Column("request_number", BigInteger),
    Column("certificate_id", BigInteger, index=True),
    Column("payload", LargeBinary, nullable=False),
    Column("created", Micros, nullable=False, index=True),
)

lease = Table(
    "lease",
    metadata,
    Column("name", Ordered, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires", Micros, nullable=False),
    Column("fence", BigInteger, nullable=False),
)

blocked_key = Table(
    "blocked_key",
    metadata,
    Column("spki_sha256", LargeBinary, primary_key=True),
    Column("why", Text, nullable=False),
    Column("added", Micros, nullable=False),
)

server_secret = Table(
    "server_secret",
    metadata,
    Column("name", Ordered, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    Column("created", Micros, nullable=False),
)

audit_writer = Table(
    "audit_writer",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("node", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("started", Micros, nullable=False),
    Column("head_seq", BigInteger, nullable=False),
    Column("head_hash", LargeBinary, nullable=False),
    Column("checkpoint_seq", BigInteger),
    sqlite_autoincrement=True,
)

audit_event = Table(
    "audit_event",
    metadata,
    Column("writer_id", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Micros, nullable=False),
    Column("kind", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("request_id", Text),
    Column("details", Text, nullable=False),
    Column("prev_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Index("ix_audit_event_at", "at", "writer_id", "seq"),
)

audit_checkpoint = Table(
    "audit_checkpoint",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Micros, nullable=False),
    Column("heads", Text, nullable=False),
    Column("prev_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("key_name", Text, nullable=False),
    Column("scheme", Text, nullable=False),
    Column("signature", LargeBinary, nullable=False),
)

timestamp_block = Table(
    "timestamp_block",
    metadata,
    Column("name", Ordered, primary_key=True),
    Column("last", BigInteger, nullable=False),
)

timestamp_entry = Table(
    "timestamp_entry",
    metadata,
    Column("chain", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("unit", Ordered, nullable=False),
    Column("at", Micros, nullable=False),
    Column("serial", LargeBinary, nullable=False, index=True),
    Column("imprint_hash", Text, nullable=False),
    Column("imprint", LargeBinary, nullable=False),
    Column("token_sha256", LargeBinary, nullable=False),
    Column("token", LargeBinary),
    Column("prev_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)
