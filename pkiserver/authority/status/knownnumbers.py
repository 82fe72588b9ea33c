"""The CRL numbers that this node has seen, kept beside the database, which may be replaced by an older copy of itself.

RFC 5280 section 5.2.3 wants no number used twice. A restored backup, or a replica that took over too early, knows
nothing of the lists that were issued since; whoever saw them does.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from twisted.internet.threads import deferToThread

_MOST_OCTETS = 4 * 1024 * 1024


class KnownNumbers:
    """The highest number of any list under each name; with a file, of those that any process of this node has seen.

    Args:
        file: Where they are kept; a place that cannot be written remembers nothing, which keeps no list from being
            issued. None for a process that remembers for itself alone.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._known: dict[str, int] = {}
        self._kept: dict[str, int] = {}

    def note(self, subject: bytes, number: int) -> None:
        """A list under the name ``subject`` (DER) has this number."""
        key = _key(subject)
        self._known[key] = max(number, self._known.get(key, 0))

    def highest(self, subject: bytes) -> int:
        """The highest number that is known; 0 where none is."""
        return self._known.get(_key(subject), 0)

    async def share(self) -> None:
        """Learn what the others know, and let them know what is new here."""
        if self._file is None:
            return
        # What is noted meanwhile is not in it, and is news the next time.
        self._kept = await deferToThread(_merge, self._file, dict(self._known))
        for key, number in self._kept.items():
            self._known[key] = max(number, self._known.get(key, 0))

    async def share_news(self) -> None:
        """:meth:`share`, where there is something new here; for calling often."""
        if self._known != self._kept:
            await self.share()


def _key(subject: bytes) -> str:
    return hashlib.sha256(subject).hexdigest()


def _merge(file: Path, known: dict[str, int]) -> dict[str, int]:
    """Put what is known into the file, which is also the lock; what is in it then. Blocking."""
    with suppress(OSError):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            found = _read(descriptor)
            both = {key: max(known.get(key, 0), found.get(key, 0)) for key in known | found}
            if both != found:
                octets = json.dumps(both, sort_keys=True).encode("ascii")
                os.pwrite(descriptor, octets, 0)
                os.ftruncate(descriptor, len(octets))
                os.fsync(descriptor)
            return both
        finally:
            os.close(descriptor)
    return known


def _read(descriptor: int) -> dict[str, int]:
    """What the file says; nothing where a crash left half of it."""
    try:
        found = json.loads(os.pread(descriptor, _MOST_OCTETS, 0))
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: number for key, number in found.items() if type(number) is int and number >= 0}
