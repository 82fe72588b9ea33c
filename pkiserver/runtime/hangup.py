"""SIGHUP for a reactor's process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor

reactor: Any = _reactor


def on_hangup(call: Callable[[], None]) -> None:
    """Call ``call`` on the reactor for each SIGHUP from now on; only the main thread may ask for this."""
    # The reactor wakes up for any signal: twisted installs a wake-up descriptor for its own handlers.
    signal.signal(signal.SIGHUP, lambda _number, _frame: reactor.callFromThread(call))


def ignore_hangup() -> None:
    """Let SIGHUP do nothing, in particular not end the process, while it is not yet ready to follow it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
