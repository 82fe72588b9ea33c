"""A world for each test, over the key stores of its file: a fresh database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.keys.settings import ProviderSettings
from pkiserver.store.migrate import migrate
from tests.authority.status_world import StatusWorld, status_world
from tests.authority.world import World, open_world


@pytest.fixture
def world(tmp_path: Path, stores: tuple[ProviderSettings, ...], on_reactor: Callable[[Any], Any]) -> Iterator[World]:
    """An empty, started world on SQLite."""
    url = f"sqlite:///{tmp_path / 'pki.db'}"
    migrate(url)

    async def start() -> World:
        opened = await open_world(url, stores)
        await opened.road.start()
        return opened

    opened: World = on_reactor(start)
    yield opened
    on_reactor(opened.close)


@pytest.fixture
def status_url() -> str:
    """The database of ``at``: nothing said, SQLite; a test file may say another."""
    return ""


@pytest.fixture
def at(
    tmp_path: Path, stores: tuple[ProviderSettings, ...], on_reactor: Callable[[Any], Any], status_url: str
) -> Iterator[StatusWorld]:
    """A started world with a root, an issuing authority, and everything about status."""
    with status_world(tmp_path, stores, on_reactor, status_url) as opened:
        yield opened
