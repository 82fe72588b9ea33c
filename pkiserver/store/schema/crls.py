"""The tables of CRLs: what each covers, the lists, where they were brought, and what was found reading them back."""

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
    row_number,
    small,
    text,
)

crl_scope = Table(
    "crl_scope",
    metadata,
    row_number(),
    identity("issuer_id", of="issuer.id"),
    identity("generation_id", of="authority_generation.id"),
    ordered("scope"),
    number("last_number"),
    text("covers", optional=True),
    small("shard", optional=True),
    ordered("template", optional=True),
    flag("bounded", optional=True),
    text("urls", optional=True),
    number("since", optional=True),
    flag("announced", optional=True),
    UniqueConstraint("issuer_id", "generation_id", "scope"),
)

crl_floor = Table(
    "crl_floor",
    metadata,
    identity("issuer_id", of="issuer.id", key=True),
    number("number"),
)

crl = Table(
    "crl",
    metadata,
    identity("scope_id", of="crl_scope.id", key=True),
    ordered("kind", key=True),
    number("number", key=True),
    number("base_number", optional=True),
    moment("this_update"),
    moment("next_update"),
    octets("der"),
    number("entries"),
    number("status_seq"),
    Index("ix_crl_begin", "scope_id", "kind", "this_update", "number"),
    Index("ix_crl_end", "scope_id", "kind", "next_update", "number", "this_update"),
)

crl_delivery = Table(
    "crl_delivery",
    metadata,
    ordered("target", key=True),
    identity("scope_id", of="crl_scope.id", key=True),
    ordered("kind", key=True),
    number("number"),
    moment("delivered", optional=True),
    small("attempts"),
    moment("next_try"),
    text("problem", optional=True),
)

self_check = Table(
    "self_check",
    metadata,
    ordered("node", key=True),
    ordered("subject", key=True),
    moment("at"),
    text("problem", optional=True),
)
