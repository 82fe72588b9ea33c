"""The address book as fixtures: one site for each test file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pkiserver.runtime.config import LdapSettings
from pkiserver.runtime.ldapsettings import CallerSettings, LdapLimitSettings
from tests.protocols.addressbook.support import BASE, Site, site_with


@pytest.fixture(scope="module")
def ldap_settings() -> LdapSettings:
    """What a test file may override."""
    generous = CallerSettings(searches_per_minute=100_000, results_per_hour=100_000)
    limits = LdapLimitSettings(connections_per_address=256)
    return LdapSettings(base=BASE, anonymous=generous, bound=generous, writers=("partners",), limits=limits)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, on_reactor: Any, ldap_settings: LdapSettings) -> Iterator[Site]:
    """A started address book."""
    folder: Path = tmp_path_factory.mktemp("addressbook")
    manager: list[Any] = []

    async def start() -> Site:
        manager.append(site_with(folder, ldap_settings, on_reactor))
        return await manager[0].__aenter__()

    async def stop() -> None:
        await manager[0].__aexit__(None, None, None)

    made = on_reactor(start)
    yield made
    on_reactor(stop)
