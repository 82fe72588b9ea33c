"""A server that gives out revocation lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.keys.settings import ProviderSettings
from tests.protocols.status_server import StatusServer, status_server


@pytest.fixture
def server(
    tmp_path: Path, status_stores: tuple[ProviderSettings, ...], on_reactor: Callable[[Any], Any]
) -> Iterator[StatusServer]:
    """One of a test's own."""
    with status_server(tmp_path, status_stores, on_reactor) as opened:
        yield opened
