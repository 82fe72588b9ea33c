"""Tables of requesters: accounts, enrolment codes, requests that wait, SCEP transactions."""

from __future__ import annotations

from sqlalchemy import Index, Table

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
    Index("ix_enroll_code_template", "template", "id"),
    partial_index("ix_enroll_code_certificate", "certificate_id", where="certificate_id IS NOT NULL"),
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
    ordered("nameless_site", optional=True),
    Index("ix_enrollment_request_state", "state", "id"),
    Index("ix_enrollment_request_fingerprint", "fingerprint", "id"),
    Index("ix_enrollment_request_template", "template", "state", "id"),
    partial_index("uq_enrollment_request_open", "fingerprint", where="state = 'pending'", unique=True),
    partial_index("ix_enrollment_request_open", "expires", where="state NOT IN ('denied', 'expired', 'issued')"),
    partial_index("ix_enrollment_request_ended", "expires", where="state NOT IN ('pending', 'approved')"),
    partial_index(
        "ix_enrollment_request_nameless",
        "template",
        "nameless_site",
        "expires",
        where="state = 'pending' AND nameless_site IS NOT NULL",
    ),
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
    moment("created"),
    moment("ends", index=True, optional=True),
    partial_index("ix_scep_transaction_renewals", "template", "transaction_id", "created", where="kind <> ''"),
)
