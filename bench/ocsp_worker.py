"""A process of the OCSP bench that changes the status of certificates; not a bench of its own."""

from __future__ import annotations

import itertools
import json
import sqlite3
import sys
import time
from pathlib import Path

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from pkiserver.authority.revocation import BySerial, Order
from pkiserver.cli.context import run_on_reactor
from pkiserver.runtime.configfile import load_settings
from pkiserver.runtime.engine import Engine, open_engine

ORDER = Order(actor="bench")
LANES = 64


async def _lane(engine: Engine, serials: list[int], until: float, pause: float) -> int:
    """Put on hold and release, over and over, so often that all lanes together keep the wanted rate."""
    done, due = 0, time.monotonic()
    for serial in itertools.cycle(serials):
        for change in (engine.status.revocations.hold, engine.status.revocations.release):
            if time.monotonic() >= until:
                return done
            await change(BySerial(serial, "issuing"), ORDER)
            done += 1
            due += pause
            await deferLater(_reactor, max(0.0, due - time.monotonic()))
    return done


async def _load(engine: Engine, folder: Path, seconds: float, rate: float) -> None:
    with sqlite3.connect(folder / "pkiserver.db") as database:
        rows = database.execute("SELECT serial FROM certificate WHERE template = 'device' AND state = 'issued'")
        serials = [int.from_bytes(row[0], "big") for row in rows]
    shares = [serials[number::LANES] for number in range(LANES)]
    print("ready", flush=True)
    started = time.monotonic()
    lanes = [_lane(engine, share, started + seconds, LANES / rate) for share in shares if share]
    done = sum(await gatherResults([Deferred.fromCoroutine(lane) for lane in lanes]))
    print(json.dumps(done / (time.monotonic() - started)), flush=True)


async def _on_demand(engine: Engine) -> None:
    print("ready", flush=True)
    while line := await deferToThread(sys.stdin.readline):
        await engine.status.revocations.hold(BySerial(int(line, 16), "issuing"), ORDER)
        print(time.time(), flush=True)


async def _main(config: Path, seconds: float, rate: float) -> None:
    async with open_engine(load_settings(config), worker="bench") as engine:
        if rate:
            await _load(engine, config.parent, seconds, rate)
        else:
            await _on_demand(engine)


if __name__ == "__main__":
    run_on_reactor(lambda: _main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
