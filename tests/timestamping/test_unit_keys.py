"""Keys of units: when they end and who follows, what is on hold or withdrawn, and what changed settings bring."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import attrs
import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from pkiserver.authority.revocation import ByCertificate
from pkiserver.foundation.tomlfile import dump
from pkiserver.keys.algorithms import KeyType
from pkiserver.store.certificates import RevocationReason
from pkiserver.timestamping.administration import UnitAdministration
from pkiserver.timestamping.unit import ImprintHash
from protocols.timestamp.messages import encode_request
from protocols.timestamp.verification import read_token
from tests.authority.status_world import ORDER
from tests.protocols.timestamp.world import TimestampWorld, another

QUERY = encode_request(ImprintHash.SHA256, bytes(32))
DAY = timedelta(days=1)


async def test_a_unit_rolls_over_before_its_key_ends_and_the_old_key_is_destroyed(world: TimestampWorld) -> None:
    await world.unit("u", key_usage_period=100 * DAY, renew_before=10 * DAY)
    first = world.directory.get("u")
    assert first is not None
    world.clock.advance(89 * DAY)
    await world.keep()
    assert world.directory.get("u") is first
    world.clock.advance(2 * DAY)
    await world.keep()
    second = world.directory.get("u")
    assert second is not None
    assert second.credential.key_name != first.credential.key_name
    await world.services.watch.poll()
    token = read_token(await world.service.answer(second, QUERY))
    assert token.signer.is_signed_by(second.profile.certificate)
    names = {key.name for key in world.at.world.keys.list()}
    assert first.credential.key_name in names
    world.clock.advance(10 * DAY)
    await world.keep()
    names = {key.name for key in world.at.world.keys.list()}
    assert first.credential.key_name not in names, "a key past its usage period is destroyed"
    assert second.credential.key_name in names


async def test_a_key_past_its_usage_period_signs_nothing(world: TimestampWorld) -> None:
    await world.unit("u", key_usage_period=100 * DAY, renew_before=10 * DAY)
    active = world.directory.get("u")
    assert active is not None
    world.clock.advance(100 * DAY)
    await world.services.watch.poll()
    with pytest.raises(Exception, match="no key that may sign"):
        await world.service.answer(active, QUERY)
    await world.directory.refresh()
    assert world.directory.get("u") is None
    assert "no key and certificate" in world.directory.problems()[0].text
    await world.keep()
    assert world.directory.get("u") is not None, "and it comes back with a new key"


async def test_a_certificate_on_hold_stops_its_key_and_does_not_destroy_it(world: TimestampWorld) -> None:
    await world.unit("u")
    first = world.directory.get("u")
    assert first is not None
    held = ByCertificate(first.credential.certificate)
    await world.at.status.revocations.hold(held, ORDER)
    await world.keep()
    second = world.directory.get("u")
    assert second is not None
    assert second.credential.key_name != first.credential.key_name
    assert first.credential.key_name in {key.name for key in world.at.world.keys.list()}
    await world.at.status.revocations.revoke(held, RevocationReason.KEY_COMPROMISE, ORDER)
    await world.keep()
    assert first.credential.key_name not in {key.name for key in world.at.world.keys.list()}


async def test_a_revoked_certificate_stops_its_unit_at_the_next_look_at_the_feed(world: TimestampWorld) -> None:
    """It went on signing until the next round of upkeep, half a minute later."""
    await world.unit("u")
    await world.unit("v")
    active = world.directory.get("u")
    assert active is not None
    assert not await world.directory.stop_withdrawn()
    await world.at.status.revocations.revoke(
        ByCertificate(active.credential.certificate), RevocationReason.KEY_COMPROMISE, ORDER
    )
    assert await world.directory.stop_withdrawn()
    assert [one.unit.name for one in world.directory.list()] == ["v"]


async def test_two_processes_make_one_successor(world: TimestampWorld) -> None:
    await world.unit("u", key_usage_period=100 * DAY, renew_before=10 * DAY)
    other = await another(world.at, "two")
    await other.library.refresh()
    world.clock.advance(95 * DAY)
    made = (await world.services.keeper.run_due(), await other.keeper.run_due())
    assert [len(names) for names in made] == [1, 0]


@pytest.mark.parametrize("change", [{"key_type": "rsa-2048"}, {"subject": "CN=Another,O=Example"}, {"issuer": "root"}])
async def test_what_is_changed_of_a_unit_counts_at_once_and_also_when_it_is_changed_back(
    world: TimestampWorld, change: dict[str, str]
) -> None:
    """A key that lasts longer, but is not as the settings have it, signs no more."""
    before = await world.unit("u")
    after = attrs.evolve(before, key_usage_period=60 * DAY, renew_before=10 * DAY, **change)
    administration = UnitAdministration(world.at.world.database, world.at.world.audit, world.clock)
    for revision, unit in enumerate((after, before, after), 1):
        await administration.save(dump(unit), by="tester", expected=revision)
        await world.keep()
        active = world.directory.get("u")
        assert active is not None
        certificate = active.profile.certificate
        assert KeyType.of(certificate.public_key()) == KeyType.parse(unit.key_type)
        assert certificate.subject == unit.subject_name
        issuer = world.at.world.road.authorities.get(unit.issuer).current.certificate
        assert issuer.has_issued(active.credential.certificate)
    world.clock.advance(51 * DAY)
    await world.keep()
    successor = world.directory.get("u")
    assert successor is not None
    assert successor.credential.key_name != active.credential.key_name


async def test_a_key_that_was_asked_for_signs_although_the_one_before_lasts_longer(world: TimestampWorld) -> None:
    unit = await world.unit("u")
    shorter = attrs.evolve(unit, key_usage_period=60 * DAY, renew_before=10 * DAY)
    administration = UnitAdministration(world.at.world.database, world.at.world.audit, world.clock)
    await administration.save(dump(shorter), by="tester", expected=1)
    await world.keep()
    name = await world.services.keeper.renew(shorter)
    for _ in range(2):
        await world.keep()
        active = world.directory.get("u")
        assert active is not None
        assert active.credential.key_name == name
        world.clock.advance(25 * DAY)
    world.clock.advance(DAY)
    await world.keep()
    successor = world.directory.get("u")
    assert successor is not None
    assert successor.credential.record_id > active.credential.record_id, "it has a successor in its time"


async def test_a_look_that_began_before_a_revocation_does_not_bring_the_unit_back(
    world: TimestampWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.unit("u")
    active = world.directory.get("u")
    assert active is not None
    database = world.at.world.database
    read, begun, go_on = database.read, Deferred[None](), Deferred[None]()
    answers: list[object] = []

    async def second_is_slow(work: Any) -> Any:
        found = await read(work)
        answers.append(found)
        if len(answers) == 2:  # the units, and then who signs for them
            begun.callback(None)
            await go_on
        return found

    monkeypatch.setattr(database, "read", second_is_slow)
    earlier = Deferred.fromCoroutine(world.directory.refresh())
    await begun
    compromised = RevocationReason.KEY_COMPROMISE
    await world.at.status.revocations.revoke(ByCertificate(active.credential.certificate), compromised, ORDER)
    later = Deferred.fromCoroutine(world.directory.stop_withdrawn())
    await deferLater(cast("Any", reactor), 0.2)
    go_on.callback(None)
    await earlier
    await later
    assert world.directory.get("u") is None


async def test_another_key_type_brings_another_key(world: TimestampWorld) -> None:
    unit = await world.unit("u")
    first = world.directory.get("u")
    assert first is not None
    administration = UnitAdministration(world.at.world.database, world.at.world.audit, world.clock)
    await administration.save(dump(attrs.evolve(unit, key_type="rsa-2048")), by="tester", expected=1)
    await world.keep()
    second = world.directory.get("u")
    assert second is not None
    assert second.credential.key_name != first.credential.key_name
    await administration.remove("u", by="tester", expected=2)
    await world.keep()
    assert world.directory.get("u") is None
