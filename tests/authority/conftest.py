"""A world for each test: a fresh database, and one SoftHSM token for each test file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.keys.settings import ProviderSettings
from pkiserver.store.migrate import migrate
from tests.authority.world import World, open_world
from tests.support.keys import softhsm_token, software_store


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProviderSettings, ...]:
    """A SoftHSM token ``softhsm`` and a software store ``software``."""
    directory: Path = tmp_path_factory.mktemp("stores")
    return softhsm_token(directory), software_store(directory)


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
