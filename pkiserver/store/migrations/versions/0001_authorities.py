"""Keys, authorities, certificates, their status and CRLs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

IDENTITY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ORDERED = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    _certificate()
    _certificate_intent()
    _certificate_san()
    _config_object()
    _feed_clock()
    _issuer()
    _signing_key()
    _status_change()
    _authority()
    _authority_generation()
    _crl_scope()
    _crl()


def _certificate() -> None:
    op.create_table(
        "certificate",
        sa.Column("id", IDENTITY, autoincrement=False, nullable=False),
        sa.Column("issuer_id", sa.BigInteger(), nullable=False),
        sa.Column("generation_id", sa.BigInteger(), nullable=False),
        sa.Column("serial", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tbs", sa.LargeBinary(), nullable=True),
        sa.Column("der", sa.LargeBinary(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("subject_key", ORDERED, nullable=False),
        sa.Column("sans", sa.Text(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("template", ORDERED, nullable=False),
        sa.Column("requester", ORDERED, nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("spki_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("revocation_reason", sa.Integer(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("invalidity_date", sa.BigInteger(), nullable=True),
        sa.Column("replaced_by", sa.BigInteger(), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificate")),
        sa.UniqueConstraint("serial", "issuer_id", name=op.f("uq_certificate_serial_issuer_id")),
    )
    op.create_index(
        "ix_certificate_exceptional",
        "certificate",
        ["state", "id"],
        unique=False,
        sqlite_where=sa.text("state <> 'issued'"),
        postgresql_where=sa.text("state <> 'issued'"),
    )
    op.create_index("ix_certificate_expiry", "certificate", ["not_after", "id"], unique=False)
    op.create_index("ix_certificate_requester", "certificate", ["requester", "id"], unique=False)
    op.create_index(
        "ix_certificate_revoked",
        "certificate",
        ["generation_id", "not_after", "id"],
        unique=False,
        sqlite_where=sa.text("revoked_at IS NOT NULL"),
        postgresql_where=sa.text("revoked_at IS NOT NULL"),
    )
    op.create_index("ix_certificate_spki", "certificate", ["spki_sha256", "id"], unique=False)
    op.create_index("ix_certificate_subject", "certificate", ["subject_key", "id"], unique=False)
    op.create_index("ix_certificate_template", "certificate", ["template", "id"], unique=False)
    op.create_index("uq_certificate_fingerprint", "certificate", ["fingerprint"], unique=True)


def _certificate_intent() -> None:
    op.create_table(
        "certificate_intent",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("issuer_id", sa.BigInteger(), nullable=False),
        sa.Column("generation_id", sa.BigInteger(), nullable=False),
        sa.Column("serial", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tbs", sa.LargeBinary(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("subject_key", ORDERED, nullable=False),
        sa.Column("sans", sa.Text(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("template", ORDERED, nullable=False),
        sa.Column("requester", ORDERED, nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("spki_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_certificate_intent")),
        sa.UniqueConstraint("serial", "issuer_id", name=op.f("uq_certificate_intent_serial_issuer_id")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_certificate_intent_spki_sha256", "certificate_intent", ["spki_sha256"], unique=False)
    op.create_index("ix_certificate_intent_subject_key", "certificate_intent", ["subject_key"], unique=False)


def _certificate_san() -> None:
    op.create_table(
        "certificate_san",
        sa.Column("kind", ORDERED, nullable=False),
        sa.Column("value", ORDERED, nullable=False),
        sa.Column("certificate_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("kind", "value", "certificate_id", name=op.f("pk_certificate_san")),
        sqlite_with_rowid=False,
    )


def _config_object() -> None:
    op.create_table(
        "config_object",
        sa.Column("kind", ORDERED, nullable=False),
        sa.Column("name", ORDERED, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("toml", sa.Text(), nullable=False),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_config_object")),
    )


def _feed_clock() -> None:
    clocks = op.create_table(
        "feed_clock",
        sa.Column("name", ORDERED, nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_feed_clock")),
    )
    op.bulk_insert(clocks, [{"name": "status", "value": 0}, {"name": "configuration", "value": 0}])


def _issuer() -> None:
    op.create_table(
        "issuer",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("dn_der", sa.LargeBinary(), nullable=False),
        sa.Column("dn_text", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_issuer")),
        sa.UniqueConstraint("dn_der", name=op.f("uq_issuer_dn_der")),
    )


def _signing_key() -> None:
    op.create_table(
        "signing_key",
        sa.Column("name", ORDERED, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("spki", sa.LargeBinary(), nullable=False),
        sa.Column("spki_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("doors", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_signing_key")),
    )
    op.create_index(op.f("ix_signing_key_spki_sha256"), "signing_key", ["spki_sha256"], unique=False)


def _status_change() -> None:
    op.create_table(
        "status_change",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("issuer_id", sa.BigInteger(), nullable=False),
        sa.Column("generation_id", sa.BigInteger(), nullable=False),
        sa.Column("serial", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_status_change")),
    )


def _authority() -> None:
    op.create_table(
        "authority",
        sa.Column("name", ORDERED, nullable=False),
        sa.Column("issuer_id", IDENTITY, nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["issuer_id"], ["issuer.id"], name=op.f("fk_authority_issuer_id")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_authority")),
    )
    op.create_index(op.f("ix_authority_issuer_id"), "authority", ["issuer_id"], unique=False)


def _authority_generation() -> None:
    op.create_table(
        "authority_generation",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("authority", ORDERED, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=True),
        sa.Column("key_name", ORDERED, nullable=True),
        sa.Column("chain", sa.Text(), nullable=False),
        sa.Column("ski", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("crl_path", ORDERED, nullable=True),
        sa.Column("new_with_old", sa.LargeBinary(), nullable=True),
        sa.Column("old_with_new", sa.LargeBinary(), nullable=True),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["authority"], ["authority.name"], name=op.f("fk_authority_generation_authority")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_authority_generation")),
        sa.UniqueConstraint("authority", "number", name=op.f("uq_authority_generation_authority_number")),
    )
    op.create_index("ix_authority_generation_ski", "authority_generation", ["ski"], unique=False)


def _crl_scope() -> None:
    op.create_table(
        "crl_scope",
        sa.Column("id", IDENTITY, nullable=False),
        sa.Column("issuer_id", IDENTITY, nullable=False),
        sa.Column("generation_id", IDENTITY, nullable=False),
        sa.Column("scope", ORDERED, nullable=False),
        sa.Column("last_number", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["generation_id"], ["authority_generation.id"], name=op.f("fk_crl_scope_generation_id")
        ),
        sa.ForeignKeyConstraint(["issuer_id"], ["issuer.id"], name=op.f("fk_crl_scope_issuer_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_crl_scope")),
        sa.UniqueConstraint(
            "issuer_id", "generation_id", "scope", name=op.f("uq_crl_scope_issuer_id_generation_id_scope")
        ),
    )


def _crl() -> None:
    op.create_table(
        "crl",
        sa.Column("scope_id", IDENTITY, nullable=False),
        sa.Column("kind", ORDERED, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("base_number", sa.BigInteger(), nullable=True),
        sa.Column("this_update", sa.BigInteger(), nullable=False),
        sa.Column("next_update", sa.BigInteger(), nullable=False),
        sa.Column("der", sa.LargeBinary(), nullable=False),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.Column("status_seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["scope_id"], ["crl_scope.id"], name=op.f("fk_crl_scope_id")),
        sa.PrimaryKeyConstraint("scope_id", "kind", "number", name=op.f("pk_crl")),
    )
