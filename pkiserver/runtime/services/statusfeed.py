"""What other processes change, as soon as the database tells of it."""

from __future__ import annotations

import contextlib

from twisted.internet.defer import Deferred

from pkiserver.foundation.errors import PkiError
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.services.upkeep import ConfigurationFollower
from pkiserver.store.authority import status
from pkiserver.store.listening import Listening
from pkiserver.store.outbox import Feed

CONFIGURATION_CHANNEL = f"pkiserver_{Feed.CONFIGURATION}"


def notifications(engine: Engine, follower: ConfigurationFollower) -> Listening:
    """Listen for changes of status and configuration; started. On SQLite there is nothing to be heard, only polled."""

    async def look() -> None:
        # What is away is tried again, and told of, by the job that does the same by the clock.
        with contextlib.suppress(PkiError):
            await follower.follow()

    listening = Listening(
        engine.database,
        {
            status.CHANNEL: engine.status.directory.cache.wake,
            CONFIGURATION_CHANNEL: lambda: Deferred.fromCoroutine(look()),
        },
    )
    listening.start()
    return listening
