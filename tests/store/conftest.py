"""Each test of the store runs on both engines."""

from __future__ import annotations

import pytest

from pkiserver.store.migrate import migrate


@pytest.fixture
def url(empty_url: str) -> str:
    """The URL of a database with the schema."""
    migrate(empty_url)
    return empty_url
