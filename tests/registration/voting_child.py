"""A process that votes, at a signal, on one request after the other, and prints what came of each vote."""

from __future__ import annotations

import sys

from pkiserver.audit import AuditLog
from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Rejected
from pkiserver.registration.approvals import Approvals
from pkiserver.registration.votes import Person
from pkiserver.store.database import Database
from tests.support.children import run


async def main(url: str, name: str, approves: str, *numbers: str) -> None:
    clock = SystemClock()
    database = await Database.open(url)
    desk = Approvals(database, AuditLog(database, node=name, worker="0", clock=clock), clock)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for number in numbers:
        try:
            await desk.decide(int(number), approved=approves == "yes", by=Person(f"admin:{name}"), reason=name)
            sys.stdout.write(f"{number} done\n")
        except Rejected as error:
            sys.stdout.write(f"{number} {error.reasons[0].code}\n")
    await database.close()


if __name__ == "__main__":
    run(main)
