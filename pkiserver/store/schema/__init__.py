"""The tables, as SQLAlchemy 2 Core metadata; the migrations make them, a test compares the two.

Whoever loads one table has loaded them all: Alembic compares and foreign keys name tables of other modules.
"""

from pkiserver.store.schema import (
    addressbook,
    audit,
    authorities,
    certificates,
    crls,
    foreign,
    guesses,
    management,
    onetime,
    outward,
    registration,
    shared,
    timestamps,
)

__all__ = [
    "addressbook",
    "audit",
    "authorities",
    "certificates",
    "crls",
    "foreign",
    "guesses",
    "management",
    "onetime",
    "outward",
    "registration",
    "shared",
    "timestamps",
]
