"""Each test of the store runs on both engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from pkiserver.store.migrate import migrate
from tests.support.postgres import postgres_server

__all__ = ["postgres_server"]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("postgres_server").new_url())


@pytest.fixture
def url(empty_url: str) -> str:
    """The URL of a database with the schema."""
    migrate(empty_url)
    return empty_url
