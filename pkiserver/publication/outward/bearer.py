"""Bringing what has changed to one directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from pkiserver.authority.delivery.queue import Bring, NotTaken, TargetDown
from pkiserver.authority.templates.library import TemplateLibrary
from pkiserver.foundation.clock import Clock
from pkiserver.keys.secrets_by_reference import SecretUnreadable
from pkiserver.outbound.dial import Servers
from pkiserver.outbound.ldap import LdapError, opened
from pkiserver.outbound.problems import OutboundError
from pkiserver.publication.outward.entries import Entries
from pkiserver.publication.outward.settings import Directory
from pkiserver.store.database import Database
from pkiserver.store.publication.outward import Task, directory_key

_DOWN = frozenset({1, 3, 8, 11, 13, 48, 49, 51, 52})
"""Result codes that are about the server or about us, not about an entry."""


class DirectoryBearer:
    """Implements :class:`pkiserver.authority.delivery.queue.Bearer`."""

    def __init__(self, directory: Directory, database: Database, templates: TemplateLibrary, clock: Clock) -> None:
        self.directory = directory
        self._database = database
        self._templates = templates
        self._clock = clock
        self._servers = Servers(clock)

    @property
    def key(self) -> str:
        """The directory's name in the queue."""
        return directory_key(self.directory.name)

    def now(self) -> datetime:
        """The time."""
        return self._clock.now()

    @asynccontextmanager
    async def entries(self) -> AsyncIterator[Entries]:
        """The directory's entries, as who may write them.

        Raises:
            TargetDown: it cannot be reached, or does not let us in; also while the block runs.
        """
        try:
            password = self.directory.bind_password.read()
            async with opened(self.directory.service(), self._servers) as connection:
                await connection.bind(self.directory.bind_name, password)
                yield Entries(connection, self.directory, self._database, self._templates, self._clock)
        except (OutboundError, LdapError, SecretUnreadable, ValueError) as error:
            raise TargetDown(str(error)) from error

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Bring]:
        """As the queue wants it."""
        async with self.entries() as entries:

            async def bring(task: Task) -> datetime | None:
                try:
                    found = await entries.settle(task.subject)
                except LdapError as error:
                    raise told(error) from error
                except OutboundError as error:
                    raise TargetDown(str(error)) from error
                if found.problem is not None:
                    raise NotTaken(found.problem)
                return found.wanted.until

            yield bring


def told(error: LdapError) -> NotTaken | TargetDown:
    """Whether it is this entry that the directory refuses, or everything."""
    return TargetDown(str(error)) if error.code in _DOWN else NotTaken(str(error))
