"""A ``pkiserver`` command that is killed after its n-th transaction: ``N ARGUMENT...``.

What is killed is the process, as by a lack of memory: nothing is tidied up. It ends by itself where it has fewer
transactions.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from pkiserver.cli import main as cli
from pkiserver.store.database import Database

T = TypeVar("T")


def die_after(transactions: int) -> None:
    """Kill this process when so many transactions are durable."""
    whole, left = Database.write, transactions

    async def write(self: Database, work: Callable[[Connection], T]) -> T:
        nonlocal left
        done = await whole(self, work)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    Database.write = write  # type: ignore[method-assign]


def main() -> None:
    """The command; a module to be run in a forked process."""
    die_after(int(sys.argv[1]))
    sys.argv = ["pkiserver", *sys.argv[2:]]
    cli.main()
