"""PostgreSQL's notifications: each process hears what another committed, without any clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from pkiserver.authority.revocation import ByCertificate
from pkiserver.authority.status.services import StatusServices
from pkiserver.keys.settings import ProviderSettings
from pkiserver.store import listening as room
from pkiserver.store.authority import status as feed
from pkiserver.store.certificates import CertificateState
from pkiserver.store.listening import Listening
from tests.authority.conftest import at as at  # noqa: PLC0414  # a fixture
from tests.authority.status_world import ORDER, StatusWorld, build
from tests.authority.world import open_world
from tests.support.postgres import PostgresServer

pytestmark = pytest.mark.postgresql
reactor: Any = _reactor


@pytest.fixture
def status_url(postgres_url: str) -> str:
    return postgres_url


async def until(what: Callable[[], bool]) -> None:
    """Wait for something that nobody but the listener can bring about; the test's own time-out ends it."""
    while not what():
        await deferLater(reactor, 0.001)


async def told(one: StatusServices, at: StatusWorld, serial: int) -> CertificateState | None:
    found = one.directory.cache.statuses_now(at.issuing.issuer_id, [serial])
    if found is None:
        await one.directory.cache.statuses(at.issuing.issuer_id, [serial])
        found = one.directory.cache.statuses_now(at.issuing.issuer_id, [serial])
    return None if found is None or found[0] is None else found[0].state


def remembers(one: StatusServices, at: StatusWorld, serial: int, state: CertificateState) -> bool:
    found = one.directory.cache.statuses_now(at.issuing.issuer_id, [serial])
    return found is not None and found[0] is not None and found[0].state is state


async def test_a_revocation_reaches_three_processes_by_notification_alone(
    at: StatusWorld, stores: tuple[ProviderSettings, ...]
) -> None:
    # The clock stands still: what is in the caches would be believed for ever if nobody were told.
    worlds = [await open_world(at.world.url, stores, at.clock) for _ in range(2)]
    every = [at.status, *(build(world, at.clock, f"process {i}") for i, world in enumerate(worlds))]
    heard = [
        Listening(world.database, {feed.CHANNEL: one.directory.cache.wake})
        for world, one in zip((at.world, *worlds), every, strict=True)
    ]
    try:
        for one in heard:
            one.start()
        await until(lambda: all(one.is_listening for one in heard))
        issued = await at.certificate()
        for one in every:
            await one.directory.cache.poll()
            assert await told(one, at, issued.serial) is CertificateState.ISSUED
        await every[1].revocations.hold(ByCertificate(issued.der), ORDER)
        held = CertificateState.HELD
        await until(lambda: all(remembers(one, at, issued.serial, held) for one in every))
    finally:
        for one in heard:
            one.stop()
        for world in worlds:
            await world.close()


async def test_a_lost_connection_is_made_again_and_its_channels_are_called(
    at: StatusWorld, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "RETRY_SECONDS", 0.05)
    calls: list[None] = []
    listening = Listening(at.world.database, {feed.CHANNEL: lambda: calls.append(None)})
    listening.start()
    await until(lambda: len(calls) == 1)
    postgres_server.end_connections(at.world.url)
    await until(lambda: len(calls) == 2)
    assert listening.is_listening
    issued = await at.certificate()
    await at.revoke(issued)
    await until(lambda: len(calls) == 3)
    listening.stop()
    assert not listening.is_listening
