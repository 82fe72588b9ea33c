"""A database that is filled for the first time: begun anew by whom it was begun, and by nobody else."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import insert, select

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.store.beginnings import begin
from pkiserver.store.engines import parse_url, writing_engine
from pkiserver.store.migrate import head_revision, inspect, migrate
from pkiserver.store.schema.authorities import authority, issuer

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def issuers(url: str, *, add: bool = False) -> int:
    """How many rows a table of the schema has."""
    engine = writing_engine(parse_url(url))
    with engine.begin() as connection:
        if add:
            connection.execute(insert(issuer).values(dn_der=b"0", dn_text="", created=0))
        found = len(connection.execute(select(issuer)).all())
    engine.dispose()
    return found


def test_what_an_interrupted_set_up_left_is_dropped(empty_url: str) -> None:
    begin(empty_url, "mine", now=NOW)
    assert issuers(empty_url, add=True) == 1
    begin(empty_url, "mine", now=NOW)
    assert issuers(empty_url) == 0
    assert inspect(empty_url).found == head_revision()


def test_a_schema_without_anything_is_taken_over(empty_url: str) -> None:
    migrate(empty_url)
    begin(empty_url, "mine", now=NOW)
    assert inspect(empty_url).found == head_revision()


def test_what_an_earlier_program_made_is_left_alone(empty_url: str) -> None:
    migrate(empty_url)
    issuers(empty_url, add=True)
    engine = writing_engine(parse_url(empty_url))
    with engine.begin() as connection:
        row = connection.execute(select(issuer.c.id)).scalar_one()
        connection.execute(insert(authority).values(name="root", issuer_id=row, config="", state="", created=0))
    engine.dispose()
    with pytest.raises(Rejected, match="the database is in use"):
        begin(empty_url, "mine", now=NOW)


def test_what_another_set_up_began_is_left_alone(empty_url: str) -> None:
    begin(empty_url, "mine", now=NOW)
    issuers(empty_url, add=True)
    with pytest.raises(
        Rejected, match=r"another set-up of it was interrupted: .* empty \(dropdb, createdb\)"
    ) as refused:
        begin(empty_url, "theirs", now=NOW)
    assert refused.value.reasons[0].code is Refusal.CONFLICT
    assert issuers(empty_url) == 1
