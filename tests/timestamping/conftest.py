"""Worlds with time-stamping services and a clock that tests move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.keys.settings import ProviderSettings
from tests.protocols.timestamp.world import TimestampWorld, timestamp_world
from tests.support.keys import softhsm_token, software_store


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProviderSettings, ...]:
    directory: Path = tmp_path_factory.mktemp("stores")
    return softhsm_token(directory), software_store(directory)


@pytest.fixture
def world(
    tmp_path: Path, stores: tuple[ProviderSettings, ...], on_reactor: Callable[[Any], Any]
) -> Iterator[TimestampWorld]:
    with timestamp_world(tmp_path, stores, on_reactor) as opened:
        yield opened
