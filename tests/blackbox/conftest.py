"""Servers that the black-box tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.instance import Instance
from tests.support.postgres import PostgresServer, postgres_server

__all__ = ["postgres_server"]


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A server on SQLite with two workers; tests that use it leave it running."""
    made = Instance(tmp_path_factory.mktemp("sqlite"), workers=2)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def postgres_instance(tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer) -> Iterator[Instance]:
    """A server on PostgreSQL with three workers."""
    made = Instance(tmp_path_factory.mktemp("postgres"), workers=3, database=postgres_server.new_url())
    made.start()
    yield made
    made.stop()
