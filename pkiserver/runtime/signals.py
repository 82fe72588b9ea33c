"""Signals of a reactor's process: SIGHUP, and requests to end, of which there may be several."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.error import ReactorNotRunning

reactor: Any = _reactor


def on_hangup(call: Callable[[], None]) -> None:
    """Call ``call`` on the reactor for each SIGHUP from now on; only the main thread may ask for this."""
    # The reactor wakes up for any signal: twisted installs a wake-up descriptor for its own handlers.
    signal.signal(signal.SIGHUP, lambda _number, _frame: reactor.callFromThread(call))


def ignore_hangup() -> None:
    """Let SIGHUP do nothing, in particular not end the process, while it is not yet ready to follow it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def stop() -> None:
    """Stop the reactor; nothing where it stops already."""
    try:
        reactor.stop()
    except ReactorNotRunning:
        return


def end_once() -> None:
    """Stop the reactor at the first SIGTERM, and do nothing at more of them; to be called once it runs.

    Whoever signals a whole group reaches the workers and their parent alike, and the parent tells them to end, too:
    Twisted's own handler would tell of the second signal with a traceback.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: reactor.callFromThread(stop))
