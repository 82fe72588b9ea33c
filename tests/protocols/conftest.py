"""Key stores for servers under test: one SoftHSM token for each test file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pkiserver.keys.settings import ProviderSettings
from tests.support.keys import softhsm_token, software_store


@pytest.fixture(scope="module")
def status_stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[ProviderSettings, ...]:
    """A SoftHSM token ``softhsm`` and a software store ``software``."""
    directory: Path = tmp_path_factory.mktemp("stores")
    return softhsm_token(directory), software_store(directory)
