"""One worker: a process of the node as its parent spawns it (see ``spawned``)."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.interfaces import IReadDescriptor
from twisted.logger import Logger, globalLogBeginner
from twisted.python.failure import Failure
from zope.interface import implementer

from pkiserver.foundation.errors import Rejected
from pkiserver.runtime.configfile import load_settings
from pkiserver.runtime.logging import NodeLog
from pkiserver.runtime.polling import poll_straight
from pkiserver.runtime.services.application import OpenApplication
from pkiserver.runtime.services.exits import EXIT_CONFIGURATION, EXIT_SOFTWARE, stop_with
from pkiserver.runtime.services.inherited import Inherited
from pkiserver.runtime.services.node import NodeService, Worker
from pkiserver.runtime.signals import end_once, ignore_hangup, stop
from pkiserver.runtime.sockets import BoundSocket
from pkiserver.runtime.steady import keep_steady
from pkiserver.runtime.workers import CONTROL, READY

reactor: Any = _reactor
_log = Logger(namespace="pkiserver.worker")


@implementer(IReadDescriptor)
class _ParentWatch:
    """Stops the worker when its parent is gone: nobody else would. Removes the folder that the parent would have."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def fileno(self) -> int:
        return CONTROL

    def logPrefix(self) -> str:  # noqa: N802
        return "parent"

    def doRead(self) -> None:  # noqa: N802
        os.read(CONTROL, 64)

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        # called for the end of file, which on a pipe is a hang-up and not something to read
        del reason
        reactor.removeReader(self)
        _log.warn("the parent process is gone: stopping")
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        stop()


def _private_folder(sockets: list[BoundSocket]) -> Path | None:
    paths = [Path(one.socket.getsockname()) for one in sockets if one.listener == "internal"]
    return paths[0].parent if paths else None


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pkiserver-worker")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--number", required=True)
    parser.add_argument("--socket", type=Inherited.parse, action="append", default=[])
    parser.add_argument("--peer", action="append", default=[], metavar="NUMBER=PATH")
    return parser.parse_args(argv)


def _start(node: NodeService) -> None:
    """Begin to serve. Whoever cannot must end: the parent starts another in the place of those only who are gone."""
    try:
        node.startService()
    except Exception:  # noqa: BLE001  # whatever it is
        _log.failure("cannot serve")
        stop_with(EXIT_SOFTWARE)


def main(argv: list[str], open_application: OpenApplication) -> int:
    """Serve until told to stop; returns the exit code."""
    keep_steady()
    poll_straight()
    ignore_hangup()
    arguments = _arguments(argv)
    sockets = [inherited.open() for inherited in arguments.socket]
    peers = dict(peer.split("=", 1) for peer in arguments.peer)
    try:
        settings = load_settings(arguments.config)
        log = NodeLog(settings.log, arguments.number)
        globalLogBeginner.beginLoggingTo([log], redirectStandardIO=False)
        node = NodeService(
            arguments.config,
            settings,
            sockets,
            open_application=open_application,
            log=log,
            worker=Worker(arguments.number, peers),
        )
    except (Rejected, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIGURATION
    node.on_ready.addCallback(lambda _: os.write(READY, b"ready\n"))
    watch = _ParentWatch(_private_folder(sockets))
    reactor.addReader(watch)
    # a reactor that stops disconnects its readers, which must not look like the parent's end
    reactor.addSystemEventTrigger("before", "shutdown", reactor.removeReader, watch)
    end_once()
    reactor.callWhenRunning(_start, node)
    reactor.addSystemEventTrigger("before", "shutdown", node.stopService)
    reactor.run()
    log.close()
    return 0
