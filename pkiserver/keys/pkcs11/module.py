"""One PKCS#11 module of this process: who may be in it, losing its tokens, and getting them back."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any

from pkcs11 import exceptions as p11
from twisted.logger import Logger

from pkiserver.keys.executor import Executor
from pkiserver.keys.faults import FaultKind, KeyProblem, KeyUnavailable
from pkiserver.keys.pkcs11.library import load_library, restart_library, start_lock
from pkiserver.keys.pkcs11.login import TokenLogin
from pkiserver.keys.pkcs11.sessioncopy import HeldKey
from pkiserver.keys.pkcs11.softhsmfiles import lack_of_room, with_reason
from pkiserver.keys.settings import TokenSettings

_log = Logger(namespace="pkiserver.keys.pkcs11")

LOSSES = (
    p11.DeviceError, p11.DeviceRemoved, p11.DeviceMemory, p11.GeneralError, p11.FunctionFailed, p11.HostMemory,
    p11.SessionHandleInvalid, p11.SessionClosed, p11.TokenNotPresent, p11.TokenNotRecognised, p11.UserNotLoggedIn,
    p11.KeyHandleInvalid, p11.ObjectHandleInvalid, p11.SlotIDInvalid, p11.OperationActive,
)  # fmt: skip
"""After these nothing in the module is trusted until it was initialised again."""
DRAIN_SECONDS = 30.0


class State(enum.StrEnum):
    """Whether operations may enter the module."""

    CLOSED = "closed"
    READY = "ready"
    LOST = "lost"


class Lane:
    """The right of one thread to be in the module, with its own session per token and its own view of each key."""

    def __init__(self) -> None:
        self.sessions: dict[TokenLogin, Any] = {}
        self.keys: dict[object, HeldKey] = {}

    def clear(self) -> None:
        """Forget handles of sessions that are gone."""
        self.sessions.clear()
        self.keys.clear()


class Module:
    """A loaded module, shared by all its tokens in this process.

    There are as many lanes as threads that may be in the module at once: one for a directly loaded module. Whoever
    holds a lane may call in; whoever holds them all may initialise the module again.
    """

    _loaded: dict[str, Module] = {}  # noqa: RUF012 - the process-wide truth that a module is initialised once
    _loading = Lock()

    def __init__(self, settings: TokenSettings) -> None:
        self.settings = settings
        self.executor = Executor(settings.module.name, threads=settings.threads, deadline=settings.operation_timeout)
        self.state = State.CLOSED
        self.library: Any = None
        self.loss: KeyProblem | None = None
        self.losses = 0
        self.tokens: list[TokenLogin] = []
        self.on_loss: list[Callable[[], None]] = []
        self._users = 0
        self._lanes: SimpleQueue[Lane] = SimpleQueue()
        self._all = [Lane() for _ in range(settings.threads)]
        for lane in self._all:
            self._lanes.put(lane)

    @classmethod
    def shared(cls, settings: TokenSettings) -> Module:
        """This process's one instance; raises :class:`KeyUnavailable` where settings contradict another's."""
        path = str(settings.module.resolve())
        with cls._loading:
            module = cls._loaded.get(path)
            if module is None:
                module = cls._loaded[path] = cls(settings)
            other = module.settings
            same = (other.exported, other.threads, other.os_locking) == (
                settings.exported, settings.threads, settings.os_locking,
            )  # fmt: skip
            if not same:
                text = (
                    f"module {path} is in use by token {other.name} with another environment, threads or os_locking: "
                    "one process can initialise a module in one way only"
                )
                raise KeyUnavailable.because(settings.name, FaultKind.MODULE_NOT_LOADED, text)
            module._users += 1
            return module

    def release(self) -> bool:
        """One user less; the last one finalises the module. Blocking. Returns whether it was the last."""
        with self._loading:
            self._users -= 1
            if self._users:
                return False
            self._loaded.pop(str(self.settings.module.resolve()), None)
        if self.library is not None and self._drain(min(5.0, self.settings.operation_timeout)):
            try:
                self.library.finalize()
            except p11.PKCS11Error as error:
                _log.info(
                    "module {module} did not end cleanly: {error!r}", module=str(self.settings.module), error=error
                )
        self.state = State.CLOSED
        return True

    # -- entering ----------------------------------------------------------------------------------------------------

    def try_enter(self) -> Lane | None:
        """A lane at once, or None when all are taken; raises :class:`KeyUnavailable` when the module is lost."""
        if self.state is not State.READY:
            raise self._unavailable()
        try:
            return self._lanes.get_nowait()
        except Empty:
            return None

    def leave(self, lane: Lane) -> None:
        """Give a lane back."""
        self._lanes.put(lane)

    @contextmanager
    def entered(self) -> Iterator[Lane]:
        """A lane, waiting for it as long as an operation may take; module errors become :class:`KeyUnavailable`."""
        if self.state is not State.READY:
            raise self._unavailable()
        try:
            lane = self._lanes.get(timeout=self.settings.operation_timeout)
        except Empty as error:
            name, text = self.settings.module.name, "the token is busy with operations that do not end"
            raise KeyUnavailable.because(name, FaultKind.TOKEN_BUSY, text) from error
        try:
            if self.state is not State.READY:
                raise self._unavailable()
            yield lane
        except LOSSES as error:
            raise self.lost(error) from error
        finally:
            self._lanes.put(lane)

    def lost(self, error: Exception) -> KeyUnavailable:
        """Stop everybody from entering; the watchers start to get the tokens back. Any thread."""
        first = self.state is State.READY
        self.state = State.LOST
        why = f"{type(error).__name__}; {room}" if (room := lack_of_room(self.settings)) else type(error).__name__
        text = f"the token stopped answering ({why}); trying to get it back"
        self.loss = KeyProblem(self.settings.module.name, FaultKind.TOKEN_LOST, text)
        if first:
            self.losses += 1
            _log.error("module {module}: {text}", module=str(self.settings.module), text=text)
            for tell in self.on_loss:
                tell()
        return KeyUnavailable(self.loss)

    def _unavailable(self) -> KeyUnavailable:
        closed = KeyProblem(self.settings.module.name, FaultKind.MODULE_NOT_LOADED, "the module is not loaded")
        return KeyUnavailable(self.loss or closed)

    # -- starting, and getting back ----------------------------------------------------------------------------------

    def connect(self, *, anew: bool = False) -> None:
        """Load or initialise again what is lost, log in to each token that is not, once; blocking.

        Faults stay with their tokens; a fault of the module itself is raised.

        Args:
            anew: Initialise also what works, between two operations: SoftHSM never looks again at an object whose file
                another process was still writing when it first saw it.

        Raises:
            KeyUnavailable: the module does not load or initialise, or somebody never leaves it.
        """
        if not self._drain(DRAIN_SECONDS if self.state is State.READY else 0.5):
            text = "an operation still hangs in the module; it cannot be initialised again"
            raise KeyUnavailable.because(self.settings.module.name, FaultKind.TOKEN_BUSY, text)
        ready = False
        try:
            with start_lock(self.settings):
                self._initialise(anew=anew)
                for token in self.tokens:
                    if not token.live and (session := token.connect(self.library)) is not None:
                        self._all[0].sessions[token] = session
            ready = True
        except p11.PKCS11Error as error:
            text = with_reason(f"the module does not initialise: {str(error) or type(error).__name__}", self.settings)
            self.loss = KeyProblem(self.settings.module.name, FaultKind.TOKEN_LOST, text)
            raise KeyUnavailable(self.loss) from error
        except KeyUnavailable as error:
            self.loss = error.problem
            raise
        finally:
            if ready:
                self.state, self.loss = State.READY, None
            elif self.state is State.READY:
                self.state = State.LOST
            for lane in self._all:
                self._lanes.put(lane)

    def _initialise(self, *, anew: bool) -> None:
        if self.library is None:
            self.library = load_library(self.settings)
        elif anew or self.state is not State.READY or not any(token.live for token in self.tokens):
            for token in self.tokens:
                token.forget()
            for lane in self._all:
                lane.clear()
            restart_library(self.library)

    def _drain(self, patience: float) -> bool:
        """Take every lane; False (and all given back) when somebody does not leave within ``patience`` seconds."""
        until = time.monotonic() + patience
        taken: list[Lane] = []
        try:
            while len(taken) < len(self._all):
                taken.append(self._lanes.get(timeout=max(0.0, until - time.monotonic())))
        except Empty:
            for lane in taken:
                self._lanes.put(lane)
            return False
        return True

    def session(self, lane: Lane, token: TokenLogin) -> Any:
        """The lane's session with a token, opened when it is first needed (the login is the process's)."""
        session = lane.sessions.get(token)
        if session is None:
            session = lane.sessions[token] = token.session()
        return session


def describe(library: Any) -> str:
    """The module in a line: manufacturer, description, versions."""
    version = ".".join(map(str, library.library_version))
    return f"{library.manufacturer_id} {library.library_description} {version} (Cryptoki {library.cryptoki_version})"
