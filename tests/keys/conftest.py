"""One SoftHSM token for each test file that wants one, and a ring over it and a software store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.foundation.clock import SystemClock
from pkiserver.keys.keyring import KeyRing
from tests.support.keys import MemoryRegistry, softhsm_token, software_store


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory, on_reactor: Callable[[Any], Any]) -> Iterator[KeyRing]:
    """An open ring with the stores ``softhsm`` and ``software``."""
    directory: Path = tmp_path_factory.mktemp("keys")
    settings = [softhsm_token(directory), software_store(directory)]

    async def start() -> KeyRing:
        return await KeyRing.open_with(settings, MemoryRegistry(), SystemClock())

    opened: KeyRing = on_reactor(start)
    assert opened.problems() == ()
    yield opened
    on_reactor(opened.close)
