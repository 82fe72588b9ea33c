"""Working off the queue of what is published outwards, once, as the server does every other second."""

from __future__ import annotations

from pkiserver.authority.delivery.queue import Bearer, QueueRunner
from pkiserver.authority.status.turns import Turns
from pkiserver.runtime.engine import Engine
from pkiserver.store.outward import Standing


async def deliver(engine: Engine) -> tuple[Standing, ...]:
    """Bring every target what is due; how each stands afterwards, directories first."""
    turns = Turns(engine.database, engine.clock, "test")
    bearers: list[Bearer] = [*engine.directories.list(), *engine.copies.bearers()]
    runners = [QueueRunner(one, engine.database, turns, engine.clock) for one in bearers]
    for one in runners:
        await one.run_due()
    return tuple(one.standing for one in runners)
