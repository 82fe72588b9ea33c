"""Servers under test, over the key stores of their file."""

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


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory,
    stores: tuple[ProviderSettings, ...],
    on_reactor: Callable[[Any], Any],
) -> Iterator[StatusServer]:
    """One for the tests of a file that leave its policy and its clock alone."""
    with status_server(tmp_path_factory.mktemp("shared"), stores, on_reactor) as opened:
        yield opened
