"""A process that writes certificates and prints the request ID of each once its last write is durable."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import attrs
from twisted.internet.defer import DeferredList, ensureDeferred

from pkiserver.store import certificates
from pkiserver.store.database import Database
from tests.support.children import run
from tests.support.stored import new_intent

NOW = datetime.now(UTC) + timedelta(0)


async def road(database: Database, request_id: str) -> None:
    intent = attrs.evolve(new_intent(holder=request_id), request_id=request_id)
    number = await database.write(lambda c: certificates.insert_prepared(c, intent))
    assert await database.write(lambda c: certificates.mark_asked(c, number))
    der = os.urandom(500)
    assert await database.write(lambda c: certificates.store_issued(c, number, der, serial=intent.serial, at=NOW))
    os.write(1, f"{request_id}\n".encode())


async def main(url: str, name: str, count: str) -> None:
    database = await Database.open(url)
    numbers = iter(range(int(count)))

    async def worker() -> None:
        for number in numbers:
            await road(database, f"{name}-{number}")

    await DeferredList([ensureDeferred(worker()) for _ in range(16)], fireOnOneErrback=True)
    await database.close()


if __name__ == "__main__":
    run(main)
