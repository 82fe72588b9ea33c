"""One listening server with a P-256 unit ``main`` for the tests that leave its clock alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.keys.settings import ProviderSettings
from tests.protocols.timestamp.world import TimestampWorld, timestamp_world


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
    stores: tuple[ProviderSettings, ...],
    on_reactor: Callable[[Any], Any],
) -> Iterator[TimestampWorld]:
    with timestamp_world(tmp_path_factory.mktemp("tsa"), stores, on_reactor) as world:
        world.make("main", default=True)
        yield world


@pytest.fixture
def server(
    tmp_path: Path, stores: tuple[ProviderSettings, ...], on_reactor: Callable[[Any], Any]
) -> Iterator[TimestampWorld]:
    """A server of its own, for tests that move its clock."""
    with timestamp_world(tmp_path, stores, on_reactor) as world:
        world.make("main", default=True)
        yield world
