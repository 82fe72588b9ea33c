"""How often threads hand the interpreter to each other while one of them computes for long.

A thread that computes keeps the interpreter for 5 ms before it hands it to one that waits. The reactor gives it away
with every signature and every system call, and would wait 5 ms each time: while a list of 300,000 was made, nine in
ten of the answers a second were lost, and 99 in 100 came within 180 to 240 ms only. Handing over fifty times as often
gives the reactor its share, and costs what is done by both together (EST, say) up to a fifth, hence not always.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

OFTEN = 0.0001
"""Seconds."""

_lock = threading.Lock()
_working = 0
_usual = 0.0


@contextmanager
def sharing() -> Iterator[None]:
    """Around work of many milliseconds in a thread beside the reactor; several threads may be within it at once."""
    global _working, _usual  # noqa: PLW0603 - it is one for the process, as the interpreter is
    with _lock:
        if not _working:
            _usual = sys.getswitchinterval()
            sys.setswitchinterval(OFTEN)
        _working += 1
    try:
        yield
    finally:
        with _lock:
            _working -= 1
            if not _working:
                sys.setswitchinterval(_usual)
