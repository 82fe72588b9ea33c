"""What a node does by itself once an hour: key generations whose time is over are retired."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import attrs

from pkiserver.authority.lifecycle.ceremonies import KeyChoice
from pkiserver.authority.status.turns import Turns
from pkiserver.keys.algorithms import KeyType
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.services.upkeep import retire_ended
from pkiserver.store.authority.authorities import GenerationState
from tests.authority.conftest import at as at  # noqa: PLC0414  # a fixture
from tests.authority.conftest import status_url as status_url  # noqa: PLC0414  # a fixture
from tests.authority.status_world import StatusWorld
from tests.authority.world import ACTOR


@attrs.frozen
class Parts:
    """Of an engine, what retiring needs."""

    clock: Any
    authorities: Any
    road: Any


async def test_a_key_signs_lists_until_its_last_certificate_and_the_archive_time_are_over(at: StatusWorld) -> None:
    key = KeyChoice(key_type=KeyType.parse("ec-p256"), store="softhsm")
    road = at.world.road
    await road.succession.rekey("issuing", key, ACTOR, validity=timedelta(days=3000))
    engine = cast("Engine", Parts(at.clock, road.authorities, road))
    turns = Turns(at.world.database, at.clock, "test")
    end = at.issuing.generations[0].certificate.not_after + at.issuing.settings.ocsp.archive
    at.clock.advance(end - at.clock.now())
    await retire_ended(engine, turns)
    assert at.issuing.generations[0].state is GenerationState.PREVIOUS
    at.clock.advance(timedelta(seconds=1))
    await retire_ended(engine, turns)
    assert [one.state for one in at.issuing.generations] == [GenerationState.RETIRED, GenerationState.ACTIVE]
    issued = await at.status.schedule.run_due()
    paths = [(await at.status.crls.scopes(one))[0].scope for one in at.issuing.generations if one.number == 2]
    assert paths == ["full"]
    assert len(issued) == 2, "the root's and the new key's"
