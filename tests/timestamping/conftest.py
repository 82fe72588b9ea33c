"""Worlds with time-stamping services and a clock that tests move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.keys.settings import ProviderSettings
from tests.protocols.timestamp.world import TimestampWorld, timestamp_world


@pytest.fixture
def world(
    tmp_path: Path, stores: tuple[ProviderSettings, ...], on_reactor: Callable[[Any], Any]
) -> Iterator[TimestampWorld]:
    with timestamp_world(tmp_path, stores, on_reactor) as opened:
        yield opened
