"""Exit codes of serving processes. twistd ends with 0 whenever its reactor stopped; a supervisor must know better."""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet import reactor as _reactor

from pkiserver.runtime.signals import stop

reactor: Any = _reactor
EXIT_SOFTWARE = 70
EXIT_CONFIGURATION = 78
"""EX_CONFIG: starting again changes nothing; systemd's RestartPreventExitStatus= names it."""


def stop_with(code: int) -> None:
    """Stop the reactor; once every service has stopped, the process ends with ``code``."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    reactor.addSystemEventTrigger("after", "shutdown", leave)
    if not reactor.running:
        reactor.callWhenRunning(stop)
    else:
        stop()
