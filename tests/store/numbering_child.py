"""A process that takes CRL numbers of one issuer name for its scopes in turn, and prints each with its scope."""

from __future__ import annotations

import sys

from twisted.internet.defer import DeferredList, ensureDeferred

from pkiserver.store.authority import crl_history
from pkiserver.store.database import Database
from tests.support.children import run

COUNT = 60


async def main(url: str, issuer: str, listed: str) -> None:
    scopes = [int(one) for one in listed.split(",")]
    database = await Database.open(url)
    numbers = iter(range(COUNT))

    async def take(scope: int) -> None:
        taken = await database.write(lambda c: crl_history.next_issuer_number(c, int(issuer), scope, "full"))
        sys.stdout.write(f"{scope} {taken}\n")

    async def worker() -> None:
        for at in numbers:
            await take(scopes[at % len(scopes)])

    await DeferredList([ensureDeferred(worker()) for _ in range(4)], fireOnOneErrback=True)
    await database.close()


if __name__ == "__main__":
    run(main)
