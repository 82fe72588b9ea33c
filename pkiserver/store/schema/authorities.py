"""Tables of issuers, authorities and their key generations, signing keys, and configuration objects."""

from __future__ import annotations

from sqlalchemy import Index, Table, UniqueConstraint

from pkiserver.store.schema.columns import identity, metadata, moment, octets, ordered, row_number, small, text

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
