"""Tables that all processes share: counters of feeds, leases, secrets of the server."""

from __future__ import annotations

from sqlalchemy import Table

from pkiserver.store.schema.columns import metadata, moment, number, octets, ordered, text

feed_clock = Table(
    "feed_clock",
    metadata,
    ordered("name", key=True),
    number("value"),
)

lease = Table(
    "lease",
    metadata,
    ordered("name", key=True),
    text("holder"),
    moment("expires"),
    number("fence"),
)

server_secret = Table(
    "server_secret",
    metadata,
    ordered("name", key=True),
    octets("value"),
    moment("created"),
)
