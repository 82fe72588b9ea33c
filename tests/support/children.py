"""Processes of their own that tests start: a module with a coroutine that runs on a reactor of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import ensureDeferred

reactor: Any = _reactor
ROOT = Path(__file__).parents[2]
SECONDS = 60


WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
"""A command that runs another as root whom the modes of files bind like everybody."""


def start(module: str, *arguments: object, by: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a module of the tests, ``tests.store.writing_child``; its standard input and output are pipes of text."""
    return subprocess.Popen(
        [*by, sys.executable, "-m", module, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "."},
    )


def finish(child: subprocess.Popen[str], said: str = "") -> str:
    """Tell a child something and wait for its end; what it printed."""
    output, _ = child.communicate(said, timeout=SECONDS)
    assert child.returncode == 0, output
    return output


def run(main: Callable[..., Coroutine[Any, Any, None]]) -> None:
    """In the child: run a coroutine with the command's arguments, and exit with 1 where it fails."""
    failed: list[Any] = []
    running = ensureDeferred(main(*sys.argv[1:]))
    running.addErrback(failed.append)
    running.addBoth(lambda _: reactor.callLater(0, reactor.stop))
    reactor.run()
    for failure in failed:
        failure.printTraceback()
    sys.exit(bool(failed))
