"""A process that takes CRL numbers of one issuer name for its scopes in turn, and prints each with its scope."""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import DeferredList, ensureDeferred

from pkiserver.store import crl_history
from pkiserver.store.database import Database

reactor: Any = _reactor


async def main(url: str, issuer: int, scopes: list[int], count: int) -> None:
    database = await Database.open(url)
    numbers = iter(range(count))

    async def take(scope: int) -> None:
        taken = await database.write(lambda c: crl_history.next_issuer_number(c, issuer, scope, "full"))
        sys.stdout.write(f"{scope} {taken}\n")

    async def worker() -> None:
        for at in numbers:
            await take(scopes[at % len(scopes)])

    await DeferredList([ensureDeferred(worker()) for _ in range(4)], fireOnOneErrback=True)
    await database.close()


if __name__ == "__main__":
    failed: list[Any] = []
    running = ensureDeferred(main(sys.argv[1], int(sys.argv[2]), [int(one) for one in sys.argv[3].split(",")], 60))
    running.addErrback(failed.append)
    running.addBoth(lambda _: reactor.callLater(0, reactor.stop))
    reactor.run()
    for failure in failed:
        failure.printTraceback()
    sys.exit(bool(failed))
