"""Servers that the black-box tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.instance import Instance
from tests.support.postgres import PostgresServer

ENGINES = ["sqlite", "postgresql"] if os.environ.get("PKISERVER_TEST_FULL") else ["sqlite"]
"""``script/test --full`` walks everything on both databases."""


@pytest.fixture(scope="session", params=ENGINES)
def instance(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A server with two workers; tests that use it leave it running."""
    url = None
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_url()
    made = Instance(tmp_path_factory.mktemp("shared"), workers=2, database=url)
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
