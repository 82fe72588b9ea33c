"""A process that issues until it is told, or made, to stop: ``python -m tests.authority.crash_child URL STORES COUNT``.

STORES is a JSON file with the SoftHSM settings; ``PKISERVER_CRASH_AT`` names the step at which it is killed. It prints
``given SERIAL`` for each certificate that a client would have got.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from pkiserver.keys.settings import TokenSettings
from tests.authority.world import authorised, open_world


def write_stores(path: Path, token: TokenSettings) -> None:
    values = {
        "name": token.name,
        "module": str(token.module),
        "pin_source": token.pin_source,
        "token_label": token.token_label,
        "softhsm_config": str(token.softhsm_config),
        "start_lock": str(token.start_lock) if token.start_lock else None,
    }
    path.write_text(json.dumps(values))


def read_stores(path: Path) -> TokenSettings:
    values = json.loads(path.read_text())
    for name in ("module", "softhsm_config", "start_lock"):
        values[name] = Path(values[name]) if values[name] else None
    return TokenSettings(**values)


async def run(url: str, stores: Path, count: int, *, ask: bool) -> None:
    world = await open_world(url, [read_stores(stores)])
    await world.road.start()
    for number in range(count):
        issued = await world.road.issue(await world.road.prepare(authorised(common_name=f"device {number}"), ask=ask))
        print(f"given {issued.serial:x}", flush=True)  # noqa: T201
    await world.close()


def main(_reactor: Any) -> Deferred[None]:
    url, stores, count, ask = sys.argv[1:]
    return Deferred.fromCoroutine(run(url, Path(stores), int(count), ask=ask == "ask"))


if __name__ == "__main__":
    react(main)
