"""A ``pkiserver`` command that gets SIGINT in a transaction that adds an account: as :mod:`tests.cli.dying_command`."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from pkiserver.cli.main import main
from pkiserver.registration import accountimport

LONG_ENOUGH = 0.3
"""Seconds within which the reactor hears of the signal; were it later, the command would be done already."""


def interrupt_once() -> None:
    """Press Ctrl-C when the first account is added."""
    insert = accountimport.rows.insert_account
    times = iter([True])

    def interrupted(*arguments: Any) -> None:
        insert(*arguments)
        if next(times, False):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(LONG_ENOUGH)

    accountimport.rows.insert_account = interrupted


if __name__ == "__main__":
    interrupt_once()
    main()
