"""The reactor's delays by the machine's steady clock.

Twisted's reactor counts them by the time of day. Where that is set back by an hour, whatever waits then (the next look
at the status feed, the next CRL, a retry) comes an hour late; set ahead, every time limit is over at once.
"""

from __future__ import annotations

import time
from typing import Any

from twisted.internet import reactor as _reactor

reactor: Any = _reactor


def keep_steady() -> None:
    """Count delays by a clock that nobody sets, those too that are waited for already. Asking twice does nothing."""
    if reactor.seconds is time.monotonic:
        return
    ahead = time.monotonic() - reactor.seconds()
    for call in reactor.getDelayedCalls():
        call.time += ahead
        call.seconds = time.monotonic
    reactor.seconds = time.monotonic
