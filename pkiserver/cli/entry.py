"""The console script. Light: Ctrl-C is answered in a word from its first moment on, also while the rest is loaded."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130


def _interrupted(_number: int, _frame: FrameType | None) -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(EXIT_INTERRUPTED)


def main() -> NoReturn:
    """Load the command and run it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us wants it ignored
        signal.signal(signal.SIGINT, _interrupted)
    from pkiserver.cli.main import main as run

    run()
