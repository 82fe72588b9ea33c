"""The tables of CRLs: what each covers, the lists, where they were brought, and what was found reading them back."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, Integer, LargeBinary, Table, Text, UniqueConstraint

from pkiserver.store.schema import Identity, Micros, Ordered, metadata

crl_scope = Table(
    "crl_scope",
    metadata,
    Column("id", Identity, primary_key=True),
    Column("issuer_id", Identity, ForeignKey("issuer.id"), nullable=False),
    Column("generation_id", Identity, ForeignKey("authority_generation.id"), nullable=False),
    Column("scope", Ordered, nullable=False),
    Column("last_number", BigInteger, nullable=False),
    Column("covers", Text),
    Column("shard", Integer),
    Column("template", Ordered),
    Column("bounded", Boolean),
    Column("urls", Text),
    Column("since", BigInteger),
    Column("announced", Boolean),
    UniqueConstraint("issuer_id", "generation_id", "scope"),
)

crl = Table(
    "crl",
    metadata,
    Column("scope_id", Identity, ForeignKey("crl_scope.id"), primary_key=True),
    Column("kind", Ordered, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("base_number", BigInteger),
    Column("this_update", Micros, nullable=False),
    Column("next_update", Micros, nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("entries", BigInteger, nullable=False),
    Column("status_seq", BigInteger, nullable=False),
)

crl_delivery = Table(
    "crl_delivery",
    metadata,
    Column("target", Ordered, primary_key=True),
    Column("scope_id", Identity, ForeignKey("crl_scope.id"), primary_key=True),
    Column("kind", Ordered, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("delivered", Micros),
    Column("attempts", Integer, nullable=False),
    Column("next_try", Micros, nullable=False),
    Column("problem", Text),
)

self_check = Table(
    "self_check",
    metadata,
    Column("node", Ordered, primary_key=True),
    Column("subject", Ordered, primary_key=True),
    Column("at", Micros, nullable=False),
    Column("problem", Text),
)
