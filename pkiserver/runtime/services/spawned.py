"""``python -m pkiserver.runtime.services.spawned``: what a parent of workers starts. Not for people."""

from __future__ import annotations

import signal
import sys

from pkiserver.runtime.garbage import unhindered


def serve(argv: list[str]) -> int:
    """Load everything that a worker serves, then be one; returns the exit code."""
    # Ctrl-C reaches every process of the foreground; the parent tells its workers to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with unhindered():
        from pkiserver.runtime.services.composition import open_application
        from pkiserver.runtime.services.worker import main

    return main(argv, open_application)


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
