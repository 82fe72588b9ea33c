"""The CRL numbers that this node has seen, kept beside the database, which may be replaced by an older copy of itself.

RFC 5280 section 5.2.3 wants no number used twice. A restored backup, or a replica that took over too early, knows
nothing of the lists that were issued since; whoever saw them does.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from twisted.internet.threads import deferToThread

LOCK_SECONDS = 2.0
"""How long another process of the node may have the file; lists are issued all the same."""
_MOST_OCTETS = 16 * 1024 * 1024
_ANY = ""
"""Stands for whichever scope: files of earlier versions have one number for each name."""

_Numbers = dict[str, dict[str, int]]


class KnownNumbers:
    """The highest number under each name and scope; with a file, of those that any process of this node has seen.

    Each scope has a sequence of its own: that the highest number of all is known says nothing of the others.

    Args:
        file: Where they are kept; a place that cannot be written remembers nothing, which keeps no list from being
            issued, and is told by ``problem``. None for a process that remembers for itself alone.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._known: _Numbers = {}
        self._kept: _Numbers = {}
        self.problem = ""
        """Why the file could not be read or written the last time; empty when it could."""

    def note(self, subject: bytes, scope: str, number: int) -> None:
        """A list of that scope under the name ``subject`` (DER) has this number."""
        scopes = self._known.setdefault(_key(subject), {})
        scopes[scope] = max(number, scopes.get(scope, 0))

    def highest(self, subject: bytes, scope: str) -> int:
        """The highest number that is known; 0 where none is."""
        return self._known.get(_key(subject), {}).get(scope, 0)

    def beyond(self, subject: bytes, here: Mapping[str, int], floor: int) -> int:
        """The highest number that a database does not know of; 0 where it knows all.

        ``here`` has its last number of each scope; new lists of all scopes have numbers above ``floor``.
        """
        known = self._known.get(_key(subject), {})
        passed = {**here, _ANY: max(here.values(), default=0)}
        lost = (number for scope, number in known.items() if number > max(passed.get(scope, 0), floor))
        return max(lost, default=0)

    async def share(self) -> None:
        """Learn what the others know, and let them know what is new here."""
        if self._file is None:
            return
        # What is noted meanwhile is not in it, and is news the next time; so is all where it cannot be written.
        found, self.problem = await deferToThread(_merge, self._file, _higher(self._known, {}))
        self._known = _higher(self._known, found)
        if not self.problem:
            self._kept = found

    async def share_news(self) -> None:
        """:meth:`share`, where there is something new here; for calling often."""
        if self._known != self._kept:
            await self.share()


def _key(subject: bytes) -> str:
    return hashlib.sha256(subject).hexdigest()


def _higher(one: _Numbers, other: _Numbers) -> _Numbers:
    """The higher of each number; shares nothing with either."""
    found = {key: dict(scopes) for key, scopes in one.items()}
    for key, scopes in other.items():
        known = found.setdefault(key, {})
        for scope, number in scopes.items():
            known[scope] = max(number, known.get(scope, 0))
    return found


def trouble_with(file: Path) -> str:
    """Why a file of numbers that is there can be neither read nor written; empty where it can, or is not there."""
    try:
        os.close(_open(file, 0))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return _told(file, error)
    return ""


def _open(file: Path, more: int) -> int:
    return os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | more, 0o600)


def _lock(descriptor: int, until: float) -> None:
    """Lock an open file until it is closed; raises BlockingIOError where a process that stands still has it."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _told(file: Path, error: OSError) -> str:
    return f"{file}: {error.strerror or error}"


def _merge(file: Path, known: _Numbers) -> tuple[_Numbers, str]:
    """Put what is known into the file, which is also the lock; what is known with what is in it, and why that failed.

    Blocking.
    """
    both = known
    try:
        descriptor = _open(file, os.O_CREAT)
        try:
            _lock(descriptor, time.monotonic() + LOCK_SECONDS)
            found = _read(descriptor)
            both = _higher(known, found)
            if both != found:
                octets = json.dumps(both, sort_keys=True).encode("ascii")
                os.posix_fallocate(descriptor, 0, len(octets))  # a full disk must not leave half of it
                os.pwrite(descriptor, octets, 0)
                os.ftruncate(descriptor, len(octets))
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return both, _told(file, error)
    return both, ""


def _read(descriptor: int) -> _Numbers:
    """What the file says; nothing where a crash left half of it."""
    try:
        found = json.loads(os.pread(descriptor, _MOST_OCTETS, 0))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    named = {key: scopes if isinstance(scopes, dict) else {_ANY: scopes} for key, scopes in found.items()}
    return {
        key: {scope: number for scope, number in scopes.items() if type(number) is int and number >= 0}
        for key, scopes in named.items()
    }
