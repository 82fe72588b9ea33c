"""kill -9 after each transaction of what one process does for all: another goes on, nothing is lost or done twice."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pkiserver.authority.delegates import ra
from pkiserver.authority.status.directory import RESPONDER_TEMPLATE
from pkiserver.authority.status.turns import TURN
from pkiserver.keys.settings import ProviderSettings, TokenSettings
from pkiserver.store import certificates
from pkiserver.store.authority import crl_history, keys
from pkiserver.store.certificates import CertificateState
from pkiserver.store.migrate import migrate
from tests.authority.crash_child import write_stores
from tests.authority.turn_child import do
from tests.authority.world import World, open_world
from tests.support.clock import FakeClock
from tests.support.forked import completed

pytestmark = pytest.mark.crash
MOST = 30
"""Transactions of any of these pieces of work; none has more."""
Count = Callable[[World], Any]


def _killed(database: Path, stores: Path, work: str, transactions: int) -> bool:
    """Do the work in a process that is killed after so many transactions; False where it had come to its end."""
    command = (f"sqlite:///{database}", str(stores), work, str(transactions))
    done = completed(command, dict(os.environ), 60, module="tests.authority.turn_child")
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    return done.returncode != 0


async def _lists(world: World) -> int:
    numbers = await world.database.read(crl_history.newest_numbers)
    assert set(numbers.values()) <= {1, 2}, "a number that was taken and not used leaves a gap"
    return len(numbers)


async def _certified(world: World, template: str, prefix: str) -> int:
    """The certificates of a kind that are valid."""
    now = world.clock.now()

    def work(connection: Any) -> list[list[Any]]:
        rows = [row for row in keys.list_all(connection) if row.name.startswith(prefix)]
        return [certificates.valid_by_key(connection, row.spki_sha256, now=now, template=template) for row in rows]

    found = [one for some in await world.database.read(work) for one in some]
    return sum(one.state is CertificateState.ISSUED for one in found)


COUNTS: dict[str, Count] = {
    "crl": _lists,
    "responder": lambda world: _certified(world, RESPONDER_TEMPLATE, "ocsp-"),
    "ra": lambda world: _certified(world, ra.TEMPLATE, "scep-"),
}


@pytest.mark.parametrize("work", list(COUNTS))
def test_another_process_goes_on(
    work: str, stores: tuple[ProviderSettings, ...], tmp_path: Path, on_reactor: Callable[[Any], Any]
) -> None:
    token = stores[0]
    assert isinstance(token, TokenSettings)
    write_stores(tmp_path / "stores.json", token)
    begun = tmp_path / "begun.db"
    migrate(f"sqlite:///{begun}")

    async def begin() -> None:
        world = await open_world(f"sqlite:///{begun}", stores)
        await world.road.start()
        await world.root()
        await world.close()

    on_reactor(begin)
    count = COUNTS[work]

    async def go_on(database: Path) -> None:
        world = await open_world(f"sqlite:///{database}", stores, FakeClock(datetime.now(UTC) + TURN))
        try:
            await world.road.start()
            done = await do(world, work)
            assert await count(world) == 1, f"{done} were left to do"
            assert await do(world, work) == 0
            assert await world.database.read(certificates.open_intents) == ()
        finally:
            await world.close()

    for transactions in range(1, MOST):
        database = tmp_path / f"{transactions}.db"
        shutil.copy(begun, database)
        killed = _killed(database, tmp_path / "stores.json", work, transactions)
        on_reactor(lambda database=database: go_on(database))
        if not killed:
            break
    else:
        raise AssertionError("it never came to its end")
    assert transactions > 3
