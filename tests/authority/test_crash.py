"""kill -9 at every step of the road: the store knows every certificate, and no serial comes twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from pkiserver.authority.checkpoints import CRASH_VARIABLE, Step
from pkiserver.authority.recover import LEASE
from pkiserver.foundation.errors import Rejected, Unavailable
from pkiserver.keys.settings import ProviderSettings, TokenSettings
from pkiserver.store import certificates
from pkiserver.store.certificates import CertificateState, Criteria, RevocationReason
from pkiserver.store.migrate import migrate
from tests.authority.crash_child import write_stores
from tests.authority.world import World, authorised, open_world
from tests.support.clock import FakeClock

ROOT = Path(__file__).parents[2]
GIVEN_BEFORE = 3
"""Certificates that one process gives out before another is killed while making its first."""

Found = tuple[CertificateState, bool, RevocationReason | None]
EXPECTED: dict[Step, Found | None] = {
    Step.BUILT: None,
    Step.PREPARED: (CertificateState.BURNT, False, None),
    Step.ASKED: (CertificateState.REVOKED, False, RevocationReason.UNSPECIFIED),
    Step.SIGNED: (CertificateState.REVOKED, False, RevocationReason.UNSPECIFIED),
    Step.STORED: (CertificateState.ISSUED, True, None),
}


@pytest.fixture
def url(empty_url: str) -> str:
    """The URL of a database with the schema."""
    migrate(empty_url)
    return empty_url


def _child(url: str, stores: Path, ask: str, crash_at: Step | None) -> tuple[int, list[int]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if crash_at is not None:
        environment[CRASH_VARIABLE] = crash_at.value
    command = [sys.executable, "-m", "tests.authority.crash_child", url, str(stores), str(GIVEN_BEFORE), ask]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    given = [int(line.split()[1], 16) for line in done.stdout.splitlines() if line.startswith("given ")]
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    return done.returncode, given


async def _prepare_hierarchy(url: str, stores: tuple[ProviderSettings, ...]) -> None:
    world = await open_world(url, stores)
    await world.road.start()
    await world.root()
    await world.subordinate()
    await world.template()
    await world.close()


async def _devices(world: World) -> dict[int, certificates.Certificate]:
    page = await world.database.read(lambda c: certificates.search(c, Criteria(template="device"), limit=100))
    return {one.serial: one for one in page.certificates}


async def _after(url: str, stores: tuple[ProviderSettings, ...], given: list[int], step: Step) -> None:
    clock = FakeClock()
    clock.step(_system_now() - clock.now() + LEASE + timedelta(seconds=5))
    world = await open_world(url, stores, clock)
    try:
        await world.road.start()
        assert await world.database.read(certificates.open_intents) == ()
        found = await _devices(world)
        for serial in given:  # what a client holds, the store knows
            assert found[serial].state is CertificateState.ISSUED
            assert x509.load_der_x509_certificate(found[serial].der or b"").serial_number == serial
        others = [one for serial, one in found.items() if serial not in given]
        expected = EXPECTED[step]
        assert [_kind(one) for one in others] == ([] if expected is None else [expected])
        assert all(one.der is not None or one.tbs is not None for one in found.values())
        again = await world.road.issue(await world.road.prepare(authorised(common_name="afterwards")))
        assert again.serial not in found
    finally:
        await world.close()


def _kind(one: certificates.Certificate) -> Found:
    return one.state, one.der is not None, None if one.revocation is None else one.revocation.reason


def _system_now() -> Any:
    from pkiserver.foundation.clock import SystemClock

    return SystemClock().now()


@pytest.mark.crash
@pytest.mark.parametrize(
    "road",
    [(step, "later") for step in Step] + [(step, "ask") for step in Step if step is not Step.PREPARED],
    ids="-".join,
)
def test_killed_at_each_step(
    url: str,
    road: tuple[Step, str],
    stores: tuple[ProviderSettings, ...],
    tmp_path: Path,
    on_reactor: Callable[[Any], Any],
) -> None:
    step, ask = road
    token = stores[0]
    assert isinstance(token, TokenSettings)
    write_stores(tmp_path / "stores.json", token)
    on_reactor(lambda: _prepare_hierarchy(url, stores))
    code, given = _child(url, tmp_path / "stores.json", ask, None)
    assert (code, len(given)) == (0, GIVEN_BEFORE)
    code, lost = _child(url, tmp_path / "stores.json", ask, step)
    assert (code, lost) == (-signal.SIGKILL, [])
    on_reactor(lambda: _after(url, stores, given, step))


async def test_the_living_are_left_alone(world: World) -> None:
    await world.root()
    await world.subordinate()
    await world.template()
    prepared = await world.road.prepare(authorised())
    other = await open_world(world.url, [])
    await other.road.start()
    assert await world.road.issue(prepared)
    await other.close()


async def test_a_sleeper_that_wakes_too_late_gives_nothing_out(world: World) -> None:
    """Its lease ran out while it was stopped; another process settled its intent."""
    await world.root()
    await world.subordinate()
    await world.template()
    prepared = await world.road.prepare(authorised())
    await world.road.recovery.stop()
    other = await open_world(world.url, [])
    settled = await other.road.recovery.settle()
    assert (settled.burnt, settled.kept) == (1, 0)
    with pytest.raises(Rejected, match="given up"):
        await world.road.issue(prepared)
    await other.close()


async def test_a_sleeper_that_had_asked_gives_nothing_out_either(world: World) -> None:
    await world.root()
    await world.subordinate()
    await world.template()
    prepared = await world.road.prepare(authorised(), ask=True)
    await world.road.recovery.stop()
    other = await open_world(world.url, [])
    settled = await other.road.recovery.settle()
    assert (settled.burnt, settled.kept) == (0, 1)
    with pytest.raises(Unavailable, match="given up"):
        await world.road.issue(prepared)
    found = await _devices(world)
    assert [one.state for one in found.values()] == [CertificateState.REVOKED]
    await other.close()


async def test_what_was_asked_for_with_its_intent_is_signed_once(world: World) -> None:
    await world.root()
    await world.subordinate()
    await world.template()
    prepared = await world.road.prepare(authorised(), ask=True)
    issued = await world.road.issue(prepared)
    with pytest.raises(Rejected, match="used or given up"):
        await world.road.issue(prepared)
    assert list(await _devices(world)) == [issued.serial]
