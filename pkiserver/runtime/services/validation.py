"""Status for authorities that are not ours, as part of a node."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger

from pkiserver.authority.status.source import StatusSource
from pkiserver.authority.validation.services import ValidationServices, validation_services
from pkiserver.foundation.errors import PkiError
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.health import Finding, Health, NamedCheck
from pkiserver.runtime.services.jobs import Job

_log = Logger(namespace="pkiserver.status")
_SECONDS = 2.0
"""From one look at the database, and at what is due, to the next."""


def validation_of(engine: Engine, holder: str) -> ValidationServices:
    """The services over an engine; ``holder`` names the process in leases."""
    return validation_services(
        database=engine.database, audit=engine.audit, keys=engine.keys, clock=engine.clock, holder=holder
    )


class Validation:
    """What a node has of it."""

    def __init__(self, engine: Engine, holder: str) -> None:
        self._engine = engine
        self._services = validation_of(engine, holder)

    @property
    def source(self) -> StatusSource:
        """The status of our own authorities and of the others."""
        return self._services.beside(self._engine.status.directory)

    async def start(self) -> None:
        """Know the authorities before the listeners open, as far as that can be had now."""
        try:
            await self._services.authorities.refresh()
        except PkiError as error:  # the job tries again; until then the answer is tryLater
            _log.warn("authorities that are not ours cannot be read yet: {why}", why=str(error))

    def jobs(self) -> tuple[Job, ...]:
        """Following the database and fetching what is due."""
        return (
            Job("foreign-lists", _SECONDS, self._services.authorities.refresh),
            Job("foreign-feeds", _SECONDS, self._services.feeds.run_due),
        )

    def check(self) -> NamedCheck:
        """Each authority whose status cannot be told."""

        async def run() -> Sequence[Finding]:
            return [
                Finding(f"foreign-ca:{one.authority}", Health.WARNING, one.text)
                for one in self._services.authorities.problems()
            ]

        return NamedCheck("foreign-cas", run)
