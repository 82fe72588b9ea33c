"""A process that guesses from many addresses, several at once, and prints how many guesses were listened to."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import DeferredList, ensureDeferred

from pkiserver.foundation.errors import Unavailable
from pkiserver.registration.guesses import Guesses
from pkiserver.registration.guesssettings import GuessSettings
from pkiserver.store.database import Database
from tests.support.clock import FakeClock

reactor: Any = _reactor
SIDE_BY_SIDE = 4


async def main(url: str, first: int, count: int) -> None:
    database = await Database.open(url)
    counted = Guesses(GuessSettings(template_rate=100), database, FakeClock())
    numbers = iter(range(first, first + count))
    allowed = 0

    async def guesser() -> None:
        nonlocal allowed
        for number in numbers:
            address = f"10.0.{number // 250}.{number % 250}"
            try:
                await counted.check("t", address)
            except Unavailable:
                continue
            allowed += 1
            await counted.wrong("t", address)

    await DeferredList([ensureDeferred(guesser()) for _ in range(SIDE_BY_SIDE)], fireOnOneErrback=True)
    await database.close()
    sys.stdout.write(f"{allowed}\n")


if __name__ == "__main__":
    failed: list[Any] = []
    running = ensureDeferred(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    running.addErrback(failed.append)
    running.addBoth(lambda _: reactor.callLater(0, reactor.stop))
    reactor.run()
    for failure in failed:
        failure.printTraceback()
    sys.exit(bool(failed))
