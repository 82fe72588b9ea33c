"""Tables of certificates, their names and changes of status, and of keys that no certificate may hold.

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

from pkiserver.store.schema.columns import (
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
    Index("ix_certificate_spki", "spki_sha256", "id", "subject_key"),
    Index("ix_certificate_template", "template", "generation_id", "id"),
    Index("ix_certificate_requester", "requester", "id"),
    Index("ix_certificate_expiry", "not_after", "id"),
    partial_index("ix_certificate_exceptional", "state", "id", where="state <> 'issued'"),
    partial_index("ix_certificate_revoked", "generation_id", "not_after", "id", where="revoked_at IS NOT NULL"),
    partial_index("ix_certificate_revoked_key", "spki_sha256", "revocation_reason", where="revoked_at IS NOT NULL"),
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

blocked_key = Table(
    "blocked_key",
    metadata,
    octets("spki_sha256", key=True),
    text("why"),
    moment("added"),
)
