"""A process that guesses from many addresses, several at once, and prints how many guesses were listened to."""

from __future__ import annotations

import sys

from twisted.internet.defer import DeferredList, ensureDeferred

from pkiserver.foundation.errors import Unavailable
from pkiserver.registration.guesses import Guesses
from pkiserver.registration.guesssettings import GuessSettings
from pkiserver.store.database import Database
from tests.support.children import run
from tests.support.clock import FakeClock

SIDE_BY_SIDE = 4


async def main(url: str, first: str, count: str) -> None:
    database = await Database.open(url)
    counted = Guesses(GuessSettings(template_rate=100), database, FakeClock())
    numbers = iter(range(int(first), int(first) + int(count)))
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
    run(main)
