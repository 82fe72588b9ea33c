"""Password hashing with argon2id (RFC 9106), off the reactor and bounded in number.

One verification costs about 15 ms of processor and 19 MiB with the defaults, so the pool is also what keeps a flood of
guesses from taking the machine: what does not fit in its queue is told to try again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import argon2
import attrs
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from pkiserver.foundation.bounds import counting
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret

T = TypeVar("T")

MAX_PASSWORD_BYTES = 1024
"""A longer password is wrong without being hashed, so that its length costs nothing."""


@attrs.frozen
class PasswordSettings:
    """The cost of a password hash, and how many may be computed at once.

    ``memory_kib``, ``passes`` and ``lanes`` are argon2id's m, t and p; ``threads`` run at once,
    ``queue`` more may wait.
    """

    memory_kib: int = attrs.field(default=19456, validator=attrs.validators.in_(range(8192, 16 * 1024 * 1024 + 1)))
    passes: int = attrs.field(default=2, validator=attrs.validators.in_(range(1, 1001)))
    lanes: int = attrs.field(default=1, validator=attrs.validators.in_(range(1, 257)))
    threads: int = attrs.field(default=2, validator=attrs.validators.in_(range(1, 65)))
    queue: int = attrs.field(default=64, validator=counting)


class PasswordHasher:
    """Hashes and verifies passwords in threads of its own. ``stop`` it when done."""

    def __init__(self, settings: PasswordSettings) -> None:
        self._settings = settings
        self._argon2 = argon2.PasswordHasher(
            time_cost=settings.passes, memory_cost=settings.memory_kib, parallelism=settings.lanes, type=argon2.Type.ID
        )
        self._pool = ThreadPool(0, settings.threads, "passwords")
        self._waiting = 0
        self._decoy: str | None = None

    def start(self) -> None:
        """Begin to take work."""
        self._pool.start()

    def stop(self) -> None:
        """Finish what runs and end the threads."""
        self._pool.stop()

    async def hash(self, password: Secret) -> str:
        """The argon2id hash in PHC string form."""
        return await self._run(lambda: self._argon2.hash(password.reveal()))

    async def verify(self, stored: str | None, password: Secret) -> bool:
        """Whether ``password`` is the one behind ``stored``.

        Where there is no such account (``stored`` is None) the same work is done on a decoy, so that the time taken
        does not tell which names exist. Raises :class:`Unavailable` when too many verifications wait already.
        """
        return await self._run(lambda: self._verify(stored, password.reveal()))

    def needs_rehash(self, stored: str) -> bool:
        """Whether ``stored`` was made at another cost than today's setting."""
        return self._argon2.check_needs_rehash(stored)

    def _verify(self, stored: str | None, password: bytes) -> bool:
        if self._decoy is None:
            self._decoy = self._argon2.hash(b"decoy")
        oversize = len(password) > MAX_PASSWORD_BYTES
        try:
            self._argon2.verify(stored or self._decoy, b"" if oversize else password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
        return stored is not None and not oversize

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= self._settings.threads + self._settings.queue:
            raise Unavailable("too many passwords are being checked", retry_after=5, public=True)
        self._waiting += 1
        try:
            # imported late: whoever only reads settings must not install a reactor
            from twisted.internet import reactor

            return await deferToThreadPool(IReactorThreads(reactor), self._pool, work)
        finally:
            self._waiting -= 1
