"""Getting lost tokens back without a restart: one patient watcher per module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pkiserver.keys.faults import KeyUnavailable
from pkiserver.keys.pkcs11.module import Module, State

_log = Logger(namespace="pkiserver.keys.recovery")

FIRST_DELAY = 0.25
"""Seconds before the first try; each later one waits twice as long, up to ``retry_longest``."""


class Watcher:
    """Connects a module's tokens, and again after a loss, with growing delays. Lives on the reactor's thread."""

    def __init__(self, module: Module, attach: Callable[[], None], reactor: Any) -> None:
        self._module = module
        self._attach = attach
        self._reactor = reactor
        self._delay = FIRST_DELAY
        self._timer: Any = None
        self._running: Deferred[None] | None = None
        self._closed = False
        self._tell = self._told
        module.on_loss.append(self._tell)

    async def connect(self, *, anew: Callable[[], None] | None = None) -> None:
        """One try now; what is missing afterwards is tried again later, by itself.

        Args:
            anew: Initialise the module even if it works, and call this in its thread instead of attaching every key.
        """

        def renew() -> None:
            self._module.connect(anew=True)
            (self._attach if anew is None or self._incomplete() else anew)()

        try:
            await self._module.executor.run_aside(self._work if anew is None else renew)
        except KeyUnavailable as error:
            _log.warn("{problem}", problem=str(error.problem))
        if self._incomplete():
            self._schedule()
        else:
            self._delay = FIRST_DELAY

    async def close(self) -> None:
        """No more tries."""
        self._closed = True
        self._module.on_loss.remove(self._tell)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._running is not None:
            await self._running

    def _work(self) -> None:
        self._module.connect()
        self._attach()

    def _incomplete(self) -> bool:
        return self._module.state is not State.READY or any(not token.live for token in self._module.tokens)

    def _told(self) -> None:
        self._reactor.callFromThread(self._restart)

    def _restart(self) -> None:
        self._delay = FIRST_DELAY
        self._schedule()

    def _schedule(self) -> None:
        waiting = self._timer is not None and self._timer.active()
        if self._closed or waiting or self._running is not None:
            return
        self._timer = self._reactor.callLater(self._delay, self._try)
        self._delay = min(self._delay * 2, self._module.settings.retry_longest)

    def _try(self) -> None:
        async def attempt() -> None:
            losses = self._module.losses
            await self.connect()
            self._running = None
            if self._incomplete():
                self._schedule()
            elif self._module.losses == losses:
                _log.info("module {module}: its tokens are back", module=str(self._module.settings.module))

        self._running = Deferred.fromCoroutine(attempt())
