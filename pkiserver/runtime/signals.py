"""Signals of a reactor's process: SIGHUP, and requests to end, of which there may be several."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from types import FrameType
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
    """Once the reactor runs, follow the first SIGTERM or Ctrl-C as Twisted does, and do nothing at more of them.

    People press Ctrl-C again, and whoever signals a whole group reaches the workers and their parent alike, who tells
    them to end, too: Twisted's own handler would tell of the second signal with a traceback.
    """
    reactor.callWhenRunning(_follow_first)
    reactor.addSystemEventTrigger("before", "shutdown", _no_more)


def _follow_first() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        follow = signal.getsignal(number)  # Twisted's, which come with the running
        if callable(follow):
            signal.signal(number, partial(_first, follow))


def _first(follow: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None) -> None:
    _no_more()
    follow(number, frame)


def _no_more() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
