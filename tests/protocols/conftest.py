"""Servers under test, and their key stores: one SoftHSM token for each test file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.keys.settings import ProviderSettings
from tests.protocols.status_server import StatusServer, status_server
from tests.support.keys import softhsm_token, software_store


@pytest.fixture(scope="module")
def status_stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProviderSettings, ...]:
    """A SoftHSM token ``softhsm`` and a software store ``software``."""
    directory: Path = tmp_path_factory.mktemp("stores")
    return softhsm_token(directory), software_store(directory)


@pytest.fixture
def server(
    tmp_path: Path, status_stores: tuple[ProviderSettings, ...], on_reactor: Callable[[Any], Any]
) -> Iterator[StatusServer]:
    """One of a test's own that tells the status of certificates: OCSP and revocation lists."""
    with status_server(tmp_path, status_stores, on_reactor) as opened:
        yield opened
