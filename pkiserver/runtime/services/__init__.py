"""The composition root of the server: what twistd starts.

``twistd pkiserver --config FILE`` makes one service. With ``workers = 1`` it is the serving tree itself
(:class:`~pkiserver.runtime.services.node.NodeService`); with more it is the parent of so many processes that each run
that tree (:class:`~pkiserver.runtime.workers.WorkerParent`).

The order at start, which is why it is made here: the settings are checked, every socket is bound (as root, where ports
below 1024 ask for it), twistd drops privileges, and only then is a key, a PIN or the database touched.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import IProcess, IService, MultiService
from twisted.logger import ILogObserver, Logger
from twisted.python import usage

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.configfile import load_settings
from pkiserver.runtime.descriptors import raise_limit
from pkiserver.runtime.garbage import unhindered
from pkiserver.runtime.logging import NodeLog
from pkiserver.runtime.notify import notify
from pkiserver.runtime.polling import poll_straight
from pkiserver.runtime.services.exits import EXIT_CONFIGURATION, stop_with
from pkiserver.runtime.services.inherited import wanted_sockets
from pkiserver.runtime.services.reload import Reloader
from pkiserver.runtime.services.tlsfiles import TlsFiles
from pkiserver.runtime.signals import end_once, ignore_hangup
from pkiserver.runtime.sockets import BoundSocket, bind_all, require_private
from pkiserver.runtime.steady import keep_steady
from pkiserver.runtime.workers import WORKER_COMMAND, WorkerParent

if TYPE_CHECKING:
    # the parent of workers serves nothing itself: it loads no engine, no protocol, no database library
    from pkiserver.runtime.services.application import Application, OpenApplication
    from pkiserver.runtime.services.node import NodeService

_log = Logger(namespace="pkiserver")


class Options(usage.Options):
    """Options of ``twistd pkiserver``."""

    optParameters = [  # noqa: N815, RUF012  # Twisted's way of saying it
        ["config", "c", os.environ.get("PKISERVER_CONFIG", "/etc/pkiserver/pkiserver.toml"), "The node configuration."],
    ]
    longdesc = "A certificate server: EST, OCSP, CRL and more over one signing core."


class TopService(MultiService):
    """What twistd is given: binds before privileges are dropped, serves after."""

    def __init__(
        self, path: Path, settings: NodeSettings, open_application: OpenApplication, command: tuple[str, ...]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.setName("pkiserver")  # type: ignore[no-untyped-call]
        self._path = path
        self._settings = settings
        self._open_application = open_application
        self._command = command
        self._log = NodeLog(settings.log, "main" if settings.worker_count > 1 else "0")
        self._paths: list[Path] = []

    def setServiceParent(self, parent: Any) -> None:  # noqa: N802
        """Tell the application where its log goes and whom to become."""
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]
        if not IService.providedBy(parent):  # an Application, which is a component with several faces
            parent.setComponent(ILogObserver, self._log)
        process = IProcess(parent, None)
        if process is not None and self._settings.user is not None and os.geteuid() == 0 and process.uid is None:
            process.uid, process.gid = account_of(self._settings.user, self._settings.group)
            if self._settings.log.target.kind == "file":
                # made by root just now; the workers, and this process at SIGHUP, open it as the other account
                os.chown(str(self._settings.log.target.path), process.uid, process.gid)

    def privilegedStartService(self) -> None:  # noqa: N802
        """Bind every socket, while still privileged.

        Raises:
            Rejected: one of them cannot be had, or the TLS files do not do; the log has every reason.
        """
        keep_steady()
        poll_straight()
        ignore_hangup()
        end_once()
        raise_limit()
        try:
            self._begin(self._bind())
        except Rejected as error:
            for reason in error.reasons:
                _log.critical("cannot serve: {why}", why=reason.text)
            sys.excepthook = _told
            raise
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def _bind(self) -> list[BoundSocket]:
        sockets = bind_all(wanted_sockets(self._settings))
        if not self._settings.management.allow_remote:
            management = [one for one in sockets if one.listener == "management"]
            require_private(management, unless="management.allow_remote = true")
        for bound in sockets:
            _log.info("{listener} is bound to {place}", listener=bound.listener, place=bound.place)
        self._paths = [bound.path for bound in sockets if bound.path is not None]
        return sockets

    def stopService(self) -> Any:  # noqa: N802
        """Stop; the paths of our UNIX sockets go first: whoever starts next may bind them before we have ended."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                path.unlink()
        return super().stopService()  # type: ignore[no-untyped-call]

    def _begin(self, sockets: list[BoundSocket]) -> None:
        child: NodeService | WorkerParent
        if self._settings.worker_count == 1:
            child = self._node(sockets)
        else:
            child = WorkerParent(
                self._path,
                self._settings.worker_count,
                sockets,
                drain_seconds=self._settings.drain.total_seconds(),
                on_hangup=Reloader(self._path, self._settings, self._log, None).reload,
                give_up=stop_with,
                command=self._command,
            )
        child.on_ready.addCallback(self._ready)
        child.setServiceParent(self)  # type: ignore[no-untyped-call]

    def _node(self, sockets: list[BoundSocket]) -> NodeService:
        with unhindered():
            from pkiserver.runtime.services.node import NodeService, Worker

        return NodeService(
            self._path,
            self._settings,
            sockets,
            open_application=self._open_application,
            log=self._log,
            worker=Worker(),
        )

    def _ready(self, result: None) -> None:
        _log.info("ready: {workers} worker(s)", workers=self._settings.worker_count)
        notify("READY=1", f"MAINPID={os.getpid()}")
        return result


def _told(_kind: type[BaseException], _error: BaseException, _trace: object) -> None:
    """In place of the traceback with which twistd ends: the log has the reasons in words."""


def account_of(user: str, group: str | None) -> tuple[int, int]:
    """User and group number of the account to become; the account's own group unless another is named.

    Raises:
        Rejected: there is no such account or group.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise Rejected.because(Refusal.CONFIGURATION, f"user: there is no account {user}") from None
    try:
        return account.pw_uid, account.pw_gid if group is None else grp.getgrnam(group).gr_gid
    except KeyError:
        raise Rejected.because(Refusal.CONFIGURATION, f"group: there is no group {group}") from None


def make_service(
    path: Path, open_application: OpenApplication, command: tuple[str, ...] = WORKER_COMMAND
) -> TopService:
    """The service for a settings file.

    Raises:
        Rejected: the settings, the account to become or the TLS files are wrong; every problem is told.
    """
    path = path.absolute()
    settings = load_settings(path)
    if settings.user is not None:
        account_of(settings.user, settings.group)
    if settings.https.tls is not None and settings.https.listen:
        # tried before anything is bound: with several workers nobody else would notice this early
        TlsFiles(settings.https.tls, settings.https.client_certificates)
    return TopService(path, settings, open_application, command)


def _open_application(settings: NodeSettings, worker: str) -> AbstractAsyncContextManager[Application]:
    """What a single process serves; with several, each worker loads that for itself."""
    with unhindered():
        from pkiserver.runtime.services.composition import open_application

    return open_application(settings, worker)


def makeService(options: Options) -> TopService:  # noqa: N802
    """Called by twistd. A configuration that does not do ends the process with every problem on a line of its own."""
    try:
        return make_service(Path(options["config"]), _open_application)
    except (Rejected, OSError) as error:
        reasons = [reason.text for reason in error.reasons] if isinstance(error, Rejected) else [str(error)]
        sys.stderr.write("".join(f"pkiserver: {reason}\n" for reason in reasons))
        sys.exit(EXIT_CONFIGURATION)
