"""Loading and initialising a PKCS#11 module: with or without locks of its own, under the start lock."""

from __future__ import annotations

import ctypes
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pkcs11._pkcs11 import lib as BaseLibrary  # noqa: N812
from pkcs11.exceptions import PKCS11Error

from pkiserver.keys.faults import FaultKind, KeyUnavailable
from pkiserver.keys.pkcs11.softhsmfiles import with_reason
from pkiserver.keys.settings import TokenSettings

START_LOCK_SECONDS = 30.0
"""Longest wait for other processes that start at the same moment."""
_CKF_OS_LOCKING_OK = 2
_CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191


class _InitialiseArguments(ctypes.Structure):
    _fields_ = (
        ("create", ctypes.c_void_p), ("destroy", ctypes.c_void_p), ("lock", ctypes.c_void_p),
        ("unlock", ctypes.c_void_p), ("flags", ctypes.c_ulong), ("reserved", ctypes.c_void_p),
    )  # fmt: skip


class _FunctionListHead(ctypes.Structure):
    # CK_FUNCTION_LIST begins with the version, then C_Initialize and C_Finalize (PKCS#11 v2.40 base, 3.6).
    _fields_ = (
        ("version", ctypes.c_ubyte * 2),
        ("initialise", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
        ("finalise", ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)),
    )


class LockingLibrary(BaseLibrary):
    """A module initialised with CKF_OS_LOCKING_OK, which python-pkcs11 never asks for: threads may use it together."""

    _ready = False

    def initialize(self) -> None:
        """C_Initialize with leave to use the system's locks."""
        if not self._ready:
            arguments = _InitialiseArguments(flags=_CKF_OS_LOCKING_OK)
            code = self._head().initialise(ctypes.byref(arguments))
            if code not in {0, _CKR_CRYPTOKI_ALREADY_INITIALIZED}:
                raise PKCS11Error(f"C_Initialize with CKF_OS_LOCKING_OK failed: 0x{code:08x}")
            self._ready = True

    def finalize(self) -> None:
        """C_Finalize."""
        if self._ready:
            self._ready = False
            code = self._head().finalise(None)
            if code:
                raise PKCS11Error(f"C_Finalize failed: 0x{code:08x}")

    def _head(self) -> _FunctionListHead:
        functions = ctypes.POINTER(_FunctionListHead)()
        ctypes.CDLL(self.so).C_GetFunctionList(ctypes.byref(functions))
        return functions.contents


def load_library(settings: TokenSettings) -> Any:
    """The module, loaded and initialised; the caller holds the start lock.

    Raises:
        KeyUnavailable: MODULE_NOT_LOADED, with the loader's words.
    """
    for name, value in settings.exported:
        os.environ[name] = value
    try:
        return (LockingLibrary if settings.os_locking else BaseLibrary)(str(settings.module))
    except PKCS11Error as error:
        what = str(error) or type(error).__name__
        text = with_reason(f"PKCS#11 module {settings.module} does not load: {what}", settings)
        raise KeyUnavailable.because(settings.name, FaultKind.MODULE_NOT_LOADED, text) from error


def restart_library(library: Any) -> None:
    """C_Finalize and C_Initialize: nothing less brings a token back. Every session of the process ends.

    Raises:
        PKCS11Error: C_Initialize failed.
    """
    with suppress(PKCS11Error):  # a module whose token is gone often fails here, and is finalised nevertheless
        library.finalize()
    library.initialize()


def lock_path(settings: TokenSettings) -> Path | None:
    """The file locked while starting; None where the module needs none."""
    if settings.start_lock is not None:
        return settings.start_lock
    if settings.softhsm_config is not None:
        return settings.softhsm_config.with_name(settings.softhsm_config.name + ".lock")
    if "softhsm" in settings.module.name:
        return Path(tempfile.gettempdir()) / f"pkiserver-softhsm-{os.getuid()}.lock"
    return None


@contextmanager
def start_lock(settings: TokenSettings, *, patience: float = START_LOCK_SECONDS) -> Iterator[None]:
    """Hold the exclusive start lock: SoftHSM fails when processes start, or change its objects, at once. Blocking.

    Raises:
        KeyUnavailable: START_LOCK; it cannot be opened, or another process keeps it for ``patience`` seconds.
    """
    path = lock_path(settings)
    if path is None:
        yield
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        text = f"the start lock {path} cannot be opened: {error.strerror}"
        raise KeyUnavailable.because(settings.name, FaultKind.START_LOCK, text) from error
    try:
        take_lock(descriptor, settings.name, path, time.monotonic() + patience)
        yield
    finally:
        os.close(descriptor)


def take_lock(descriptor: int, name: str, path: Path, until: float) -> None:
    """Lock an open file exclusively, until it is closed; blocking.

    Args:
        descriptor: The open file.
        name: What the fault is about.
        path: What messages call it.
        until: When to give up, on the steady clock.

    Raises:
        KeyUnavailable: START_LOCK; another process has kept it all the time.
    """
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                text = f"another process has held the lock {path} for too long"
                raise KeyUnavailable.because(name, FaultKind.START_LOCK, text) from None
            time.sleep(0.01)
        else:
            return
