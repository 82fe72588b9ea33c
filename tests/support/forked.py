"""``pkiserver`` commands in processes that are forked from one that has loaded everything, and run nothing yet.

Loading is the most of a short command's time, and proves nothing the hundredth time. All else is as at the prompt: each
command is a process with a reactor, output, exit code and end of its own. What depends on how Python itself is started
(the console script, a closed standard stream, ``LANG``) takes :data:`tests.support.commands.PKISERVER`.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
REQUEST_BYTES = 100_000


def completed(
    arguments: tuple[str, ...], environment: dict[str, str], seconds: int, *, module: str = "pkiserver.cli.main"
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in the checkout; one that takes longer than ``seconds`` is ended by SIGALRM.

    ``module``: whose ``main`` the command is.
    """
    request = {"arguments": arguments, "environment": environment, "seconds": seconds, "module": module}
    answers, told = socket.socketpair()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, answers:
        with told:
            descriptors = [out.fileno(), err.fileno(), told.fileno()]
            socket.send_fds(_forker(), [json.dumps(request).encode()], descriptors)
        answers.settimeout(2 * seconds)
        code = int(answers.recv(16))
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read().decode(), err.read().decode())


@functools.cache
def _forker() -> socket.socket:
    """The way to the process that forks, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__], cwd=ROOT, stdin=theirs, env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )  # fmt: skip
    atexit.register(lambda: (ours.close(), child.wait()))
    return ours


def _serve() -> None:
    """Fork a guardian for each request, until whoever asks is gone."""
    requests = socket.socket(fileno=os.dup(0))
    _load()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the guardians
    while True:
        said, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES, 3)
        if not said:
            return
        if os.fork() == 0:
            requests.close()
            _guard(json.loads(said), *descriptors)
        for one in descriptors:
            os.close(one)


def _load() -> None:
    """What every command on an open engine loads, and those that make certificates or print tables."""
    import rich.table  # noqa: F401

    import pkiserver.authority.checks.lint
    import pkiserver.cli.main
    import pkiserver.runtime.configfile
    import pkiserver.runtime.engine  # noqa: F401

    gc.freeze()


def _guard(request: dict[str, Any], out: int, err: int, told: int) -> NoReturn:
    """Run the command in a process of its own; tell how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (process := os.fork()) == 0:
        os.close(told)
        _run(request, out, err)
    _, status = os.waitpid(process, 0)
    os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(request: dict[str, Any], out: int, err: int) -> NoReturn:
    os.setsid()  # no terminal that could be asked something
    signal.alarm(request["seconds"])
    for descriptor, number in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    _own_reactor()
    sys.argv = ["pkiserver", *request["arguments"]]
    importlib.import_module(request["module"]).main()
    sys.exit(0)


def _own_reactor() -> None:
    """The reactor came with its modules; what it polls and wakes itself up with would be shared with other commands."""
    from twisted.internet import reactor

    type(reactor).__init__(reactor)


if __name__ == "__main__":
    _serve()
