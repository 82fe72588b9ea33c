"""The parent of the workers: binds, spawns, restarts, passes signals on. It opens no engine and holds no key."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkiserver.runtime.notify import notify
from pkiserver.runtime.signals import on_hangup
from pkiserver.runtime.sockets import BoundSocket, bind_unix

reactor: Any = _reactor
_log = Logger(namespace="pkiserver.workers")
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 30.0
"""Seconds before a worker that died is started again: doubled each time up to the longest."""
STEADY_SECONDS = 60.0
"""A worker that ran so long begins with the first pause again."""
KILL_AFTER = 10.0
"""Seconds beyond the drain time after which a worker that has not ended is killed."""
EXIT_CONFIGURATION = 78
CONTROL = 3
"""Descriptor in a worker whose other end is the parent: end of file there means that the parent is gone."""
READY = 4
"""Descriptor on which a worker writes a line when it serves."""
FIRST_SOCKET = 5

WORKER_COMMAND = (sys.executable, "-m", "pkiserver.runtime.services.spawned")


def _how_it_ended(error: Any) -> str:
    if isinstance(error, ProcessDone):
        return "ended by itself"
    if error.signal is not None:
        return f"was ended by {signal.Signals(error.signal).name}"
    if error.exitCode == EXIT_CONFIGURATION:
        return "cannot serve with this configuration (see `pkiserver config check`)"
    return f"ended with code {error.exitCode}"


class _Worker(ProcessProtocol):
    """One worker process, and the next one in its place when it dies."""

    def __init__(self, parent: WorkerParent, number: int) -> None:
        self.number = number
        self.ready = False
        self.running = False
        self.started = 0.0
        self.pause = FIRST_PAUSE
        self.restart: IDelayedCall | None = None
        self._parent = parent

    def connectionMade(self) -> None:  # noqa: N802
        self.running, self.ready, self.started = True, False, reactor.seconds()

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803
        if childFD == READY and b"\n" in data:
            self.ready = True
            self._parent.worker_ready(self)

    def signal(self, name: str) -> None:
        """Send a signal to the process, if there is one."""
        transport: IProcessTransport | None = self.transport
        if self.running and transport is not None:
            try:
                transport.signalProcess(name)
            except ProcessExitedAlready:
                return

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        self.running = self.ready = False
        self._parent.worker_ended(self, reason)


class WorkerParent(Service):
    """Runs ``count`` workers on the same sockets.

    Args:
        path: The settings file that the workers read.
        count: How many.
        sockets: The listening sockets, bound.
        drain_seconds: How long a worker may take to end.
        on_hangup: What this process itself does on SIGHUP, before the workers are told.
        give_up: Called with an exit code when serving is hopeless.
        command: The program of a worker.
    """

    def __init__(
        self,
        path: Path,
        count: int,
        sockets: Sequence[BoundSocket],
        *,
        drain_seconds: float,
        on_hangup: Callable[[], None],
        give_up: Callable[[int], None],
        command: Sequence[str] = WORKER_COMMAND,
    ) -> None:
        self.setName("workers")  # type: ignore[no-untyped-call]
        self._path = path
        self._sockets = tuple(sockets)
        self._drain_seconds = drain_seconds
        self._hangup = on_hangup
        self._give_up = give_up
        self._command = tuple(command)
        self._workers = [_Worker(self, number) for number in range(count)]
        self._private: list[BoundSocket] = []
        self._folder: Path | None = None
        self._stopped: Deferred[None] | None = None
        self._was_ready = False
        self.on_ready: Deferred[None] = Deferred()
        """Fires once, when every worker has served at the same time."""

    def startService(self) -> None:  # noqa: N802
        """Spawn all workers."""
        super().startService()  # type: ignore[no-untyped-call]
        # short, because the path of a UNIX socket has at most 107 octets
        self._folder = Path(tempfile.mkdtemp(prefix="pkiserver-", dir=os.environ.get("RUNTIME_DIRECTORY")))
        for worker in self._workers:
            path = self._private_path(worker.number)
            self._private.append(BoundSocket("internal", bind_unix(path, mode=0o600)))
        for worker in self._workers:
            self._spawn(worker)
        on_hangup(self._pass_hangup)

    def _private_path(self, number: int) -> str:
        assert self._folder is not None
        return str(self._folder / f"worker-{number}")

    def _spawn(self, worker: _Worker) -> None:
        worker.restart = None
        handed = [*self._sockets, self._private[worker.number]]
        descriptors: dict[int, int | str] = {0: 0, 1: 1, 2: 2, CONTROL: "w", READY: "r"}
        arguments = [*self._command, "--config", str(self._path), "--number", str(worker.number)]
        for position, bound in enumerate(handed):
            descriptors[FIRST_SOCKET + position] = bound.socket.fileno()
            arguments += ["--socket", f"{bound.listener}={FIRST_SOCKET + position}"]
        for peer in self._workers:
            if peer is not worker:
                arguments += ["--peer", f"{peer.number}={self._private_path(peer.number)}"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("LISTEN_") and k != "NOTIFY_SOCKET"}
        reactor.spawnProcess(worker, arguments[0], arguments, env=environment, childFDs=descriptors)

    def worker_ready(self, worker: _Worker) -> None:
        """A worker serves."""
        _log.info("worker {number} serves", number=worker.number)
        if not self._was_ready and all(each.ready for each in self._workers):
            self._was_ready = True
            self.on_ready.callback(None)

    def worker_ended(self, worker: _Worker, reason: Failure) -> None:
        """A worker's process is gone: start another, unless this node stops or none could serve."""
        if self._stopped is not None:
            if not any(each.running for each in self._workers):
                self._stopped.callback(None)
            return
        error: Any = reason.value
        how = _how_it_ended(error)
        hopeless = not self._was_ready or not any(each.ready for each in self._workers)
        if hopeless and getattr(error, "exitCode", None) == EXIT_CONFIGURATION:
            _log.critical("worker {number} cannot serve with this configuration", number=worker.number)
            self._give_up(EXIT_CONFIGURATION)
            return
        if reactor.seconds() - worker.started > STEADY_SECONDS:
            worker.pause = FIRST_PAUSE
        _log.error(
            "worker {number} {how}: another starts in {pause} s", number=worker.number, how=how, pause=worker.pause
        )
        worker.restart = reactor.callLater(worker.pause, self._spawn, worker)
        worker.pause = min(2 * worker.pause, LONGEST_PAUSE)

    def _pass_hangup(self) -> None:
        self._hangup()
        for worker in self._workers:
            # one that does not serve yet reads everything anew anyway
            if worker.ready:
                worker.signal("HUP")

    def stopService(self) -> Deferred[None]:  # noqa: N802
        """Close the sockets, tell the workers to end, wait for them, kill those that do not."""
        super().stopService()  # type: ignore[no-untyped-call]
        notify("STOPPING=1")
        stopped = self._stopped = Deferred()
        for worker in self._workers:
            if worker.restart is not None:
                worker.restart.cancel()
                worker.restart = None
            worker.signal("TERM")
        for bound in self._sockets:
            bound.socket.close()
        if not any(worker.running for worker in self._workers):
            stopped.callback(None)
        kill = reactor.callLater(self._drain_seconds + KILL_AFTER, self._kill)
        stopped.addCallback(self._clean_up, kill)
        return stopped

    def _kill(self) -> None:
        for worker in self._workers:
            if worker.running:
                _log.error("worker {number} did not end in time and is killed", number=worker.number)
                worker.signal("KILL")

    def _clean_up(self, _result: None, kill: IDelayedCall) -> None:
        if kill.active():
            kill.cancel()
        for bound in self._private:
            bound.socket.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
