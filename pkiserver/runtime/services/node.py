"""The service tree of one serving process: named children in the order in which they start and, reversed, stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Rejected, Unavailable
from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.garbage import settle
from pkiserver.runtime.logging import NodeLog, pass_over_remarks
from pkiserver.runtime.metrics import ReactorLatency, new_registry
from pkiserver.runtime.notify import notify
from pkiserver.runtime.services.application import Application, OpenApplication
from pkiserver.runtime.services.checks import log_check
from pkiserver.runtime.services.exits import EXIT_CONFIGURATION, EXIT_SOFTWARE, stop_with
from pkiserver.runtime.services.handover import web_limits
from pkiserver.runtime.services.jobs import Jobs
from pkiserver.runtime.services.listeners import ApiListener, HttpListener, LdapListener
from pkiserver.runtime.services.management import Management, waiting_routes
from pkiserver.runtime.services.reload import Reloader
from pkiserver.runtime.services.tlsfiles import TlsFiles
from pkiserver.runtime.signals import on_hangup
from pkiserver.runtime.sockets import BoundSocket
from pkiserver.store.failures import told_in_full
from protocols.addressbook.limits import LDAP_PROTOCOLS
from protocols.management.site import ApiLimits
from protocols.web.metrics import WebMetrics

reactor: Any = _reactor
_log = Logger(namespace="pkiserver.node")
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 15.0
"""Seconds between two tries to open what is away (the database), at first and at most."""


@attrs.frozen
class Worker:
    """Which process of the node this is."""

    name: str = "0"
    peers: dict[str, str] = attrs.Factory(dict)
    """The other workers' names and the paths of their private sockets."""


class LatencyService(Service):
    """Measures the reactor."""

    def __init__(self) -> None:
        self.setName("latency")  # type: ignore[no-untyped-call]
        self.collector = ReactorLatency(reactor)

    def startService(self) -> None:  # noqa: N802
        """Begin."""
        super().startService()  # type: ignore[no-untyped-call]
        self.collector.start()

    def stopService(self) -> None:  # noqa: N802
        """End."""
        super().stopService()  # type: ignore[no-untyped-call]
        self.collector.stop()


class EngineService(Service):
    """Holds the application open. What is away at start is tried again; what is wrong ends the process."""

    def __init__(self, settings: NodeSettings, worker: str, open_application: OpenApplication) -> None:
        self.setName("engine")  # type: ignore[no-untyped-call]
        self._settings = settings
        self._worker = worker
        self._open = open_application
        self._manager: Any = None

    async def open(self, say: Callable[[str], None]) -> Application:
        """Open it, however long that takes; ``say`` is told what is away, whenever that changes.

        Raises:
            Rejected: it cannot be opened with these settings.
        """
        pause = FIRST_PAUSE
        said = ""
        while True:
            manager = self._open(self._settings, self._worker)
            try:
                application = await manager.__aenter__()
            except Unavailable as error:
                why = told_in_full(error)
                if why != said:
                    said = why
                    say(said)
                await deferLater(reactor, pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                self._manager = manager
                return application

    async def close(self) -> None:
        """Close it, if it is open."""
        manager, self._manager = self._manager, None
        if manager is not None:
            await manager.__aexit__(None, None, None)


class NodeService(MultiService):
    """One serving process.

    Args:
        path: The settings file, for SIGHUP.
        settings: What it says.
        sockets: The listening sockets, bound; one named ``internal`` is this worker's private one.
        open_application: Opens the engine and the protocols.
        log: The process's log, for SIGHUP.
        worker: Which process this is.
        ready: Called once, when every listener accepts.

    Raises:
        Rejected: the TLS files do not do.
    """

    def __init__(
        self,
        path: Path,
        settings: NodeSettings,
        sockets: Sequence[BoundSocket],
        *,
        open_application: OpenApplication,
        log: NodeLog | None,
        worker: Worker,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.setName("node")  # type: ignore[no-untyped-call]
        self._settings = settings
        self._log = log
        self._web_metrics = WebMetrics()
        self._latency = LatencyService()
        self._registry = new_registry((self._web_metrics, self._latency.collector))
        self._is_alone = not worker.peers
        self._management = Management(worker.name, self._registry, worker.peers)
        self._engine = EngineService(settings, worker.name, open_application)
        self._jobs = Jobs()
        tls = None
        if settings.https.tls is not None and settings.https.listen:
            tls = TlsFiles(settings.https.tls, settings.https.client_certificates)
        ldap_tls = None
        if settings.ldap_tls is not None and (settings.ldap.listen or settings.ldap.listen_tls):
            ldap_tls = TlsFiles(settings.ldap_tls, "request", protocols=LDAP_PROTOCOLS)
        api_tls = None
        if settings.api.tls is not None and settings.api.listen:
            api_tls = TlsFiles(settings.api.tls, "require")
        self._reloader = Reloader(path, settings, log, tls, ldap_tls=ldap_tls, api_tls=api_tls)
        limits = ApiLimits(settings.api.connections, settings.api.body_bytes, settings.api.timeout.total_seconds())
        self._api = ApiListener([one for one in sockets if one.listener == "api"], api_tls, limits)
        self._ldap = [
            LdapListener(name, [one for one in sockets if one.listener == name], ldap_tls, secure=name == "ldaps")
            for name in ("ldap", "ldaps")
        ]
        self._listeners = {
            name: self._listener(name, [one for one in sockets if one.listener == name], tls)
            for name in ("http", "https", "management", "internal")
        }
        for child in (self._latency, self._engine, self._jobs, *self._listeners.values(), *self._ldap, self._api):
            child.setServiceParent(self)  # type: ignore[no-untyped-call]
        self._starting: Deferred[None] | None = None
        self.on_ready: Deferred[None] = Deferred()
        """Fires once, when every listener accepts."""

    def _listener(self, name: str, sockets: Sequence[BoundSocket], tls: TlsFiles | None) -> HttpListener:
        return HttpListener(
            name,
            sockets,
            limits=web_limits(self._settings.limits),
            clock=SystemClock(),
            metrics=self._web_metrics,
            tls=tls if name == "https" else None,
        )

    def startService(self) -> None:  # noqa: N802
        """Answer health questions at once; everything else when the engine is open."""
        pass_over_remarks()
        super().startService()  # type: ignore[no-untyped-call]
        on_hangup(self._reloader.reload)
        self._listeners["management"].listen(self._management.routes())
        self._listeners["internal"].listen(self._management.private_routes())
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._failed)

    def _waiting(self, why: str) -> None:
        self._management.starting = why
        if self._is_alone:  # beside others, who may serve, it would take their connections
            for name in ("http", "https"):
                self._listeners[name].listen(waiting_routes(LONGEST_PAUSE))
        _log.warn("not ready: {why}; trying again", why=why)

    async def _start(self) -> None:
        application = await self._engine.open(self._waiting)
        for collector in application.collectors:
            self._registry.register(collector)
        own = () if self._log is None else (log_check(self._log),)
        self._management.checks = (*application.checks, *own)
        self._listeners["http"].listen(application.http)
        self._listeners["https"].listen(application.https)
        if application.ldap is not None:
            for listener in self._ldap:
                if listener.sockets:
                    listener.listen(application.ldap)
        if application.api is not None:
            self._api.listen(application.api)
        self._jobs.begin(application.jobs)
        settle()
        _log.info("node {node} serves", node=self._settings.node)
        self.on_ready.callback(None)

    def _failed(self, failure: Any) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(Rejected):
            for reason in failure.value.reasons:
                _log.critical("cannot serve: {why}", why=reason.text)
            stop_with(EXIT_CONFIGURATION)
        else:
            _log.failure("cannot serve", failure=failure)
            stop_with(EXIT_SOFTWARE)

    def stopService(self) -> Deferred[None]:  # noqa: N802
        """Stop accepting, let running requests end within ``drain``, close the engine."""
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        notify("STOPPING=1")
        _log.info("stopping: running requests have {seconds} s", seconds=self._settings.drain.total_seconds())
        self._management.stopping = True
        if self._starting is not None:
            self._starting.cancel()
            await self._starting  # what was half open is closed again: threads left behind would keep the process alive
        drains = [
            Deferred.fromCoroutine(self._listeners[name].drain(self._settings.drain.total_seconds()))
            for name in ("http", "https")
        ]
        drains += [Deferred.fromCoroutine(one.drain(self._settings.drain.total_seconds())) for one in self._ldap]
        drains.append(Deferred.fromCoroutine(self._api.drain(self._settings.drain.total_seconds())))
        for drain in drains:
            await drain
        await self._jobs.end()
        await self._engine.close()
        for name in ("management", "internal"):
            await self._listeners[name].drain(1.0)
        await super().stopService()  # type: ignore[no-untyped-call]
        _log.info("stopped")
