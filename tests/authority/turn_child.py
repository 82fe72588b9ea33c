"""A process that is killed in its turn: ``URL STORES WORK TRANSACTIONS``.

WORK is what one process does for all; it is killed after so many transactions, as by a lack of memory, and ends by
itself where the work has fewer.
"""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from pkiserver.authority.delegates.ownkeys import OwnKeys
from pkiserver.authority.delegates.ra import RaKeeper
from pkiserver.authority.road import new_holder
from pkiserver.authority.status.services import status_services
from pkiserver.authority.status.turns import Turns
from tests.authority.crash_child import read_stores
from tests.authority.world import World, open_world
from tests.cli.dying_command import die_after


async def do(world: World, work: str) -> int:
    """Do what is due of one kind of work; how much of it was done."""
    road, holder = world.road, new_holder("test")
    status = status_services(
        database=world.database,
        audit=world.audit,
        keys=world.keys,
        authorities=road.authorities,
        preparer=road.preparer,
        issuer=road.issuer,
        clock=world.clock,
        holder=holder,
    )
    if work == "crl":
        return len(await status.schedule.run_due())
    if work == "responder":
        return len(await status.responders.run_due())
    turns = Turns(world.database, world.clock, holder)
    own = OwnKeys(world.database, world.keys, road.authorities, road.preparer, road.issuer, turns, world.clock)
    return len(await RaKeeper(own).run_due(["root"]))


async def run(url: str, stores: Path, work: str, transactions: int) -> None:
    world = await open_world(url, [read_stores(stores)])
    await world.road.start()
    die_after(transactions)
    await do(world, work)
    await world.close()


def main() -> None:
    """A module to be run in a forked process."""
    url, stores, work, transactions = sys.argv[1:]
    react(lambda _reactor: Deferred.fromCoroutine(run(url, Path(stores), work, int(transactions))))
