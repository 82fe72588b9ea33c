"""A server under test, over the key stores of its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.keys.settings import ProviderSettings
from tests.protocols.status_server import StatusServer, status_server


@pytest.fixture
def server(
    tmp_path: Path, stores: tuple[ProviderSettings, ...], on_reactor: Callable[[Any], Any]
) -> Iterator[StatusServer]:
    """One of a test's own that tells the status of certificates: OCSP and revocation lists."""
    with status_server(tmp_path, stores, on_reactor) as opened:
        yield opened
