"""Keys that lie in a store and are in no record: left by a process that was killed between making and registering one.

Nothing here is deleted by itself: another installation, or another program, may use the same token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.task import deferLater

from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.keys.executor import running_reactor
from pkiserver.keys.faults import KeyUnavailable
from pkiserver.keys.providers import executor_of

if TYPE_CHECKING:
    from pkiserver.keys.providers import Providers
    from pkiserver.keys.records import KeyRegistry

SECONDS = 1.0
"""How long a key may be in no record while whoever made it registers it."""


@attrs.frozen
class UnregisteredKey:
    """A key of the form of ours that no record names. ``parts``: which halves of it are there."""

    store: str
    name: str
    location: str
    parts: tuple[str, ...]


class Unregistered:
    """Finds such keys in all stores that can be looked into, and destroys one when told to."""

    def __init__(self, providers: Providers, registry: KeyRegistry, reactor: Any = None) -> None:
        self._providers = providers
        self._registry = registry
        self._reactor = reactor or running_reactor()

    async def find(self) -> tuple[UnregisteredKey, ...]:
        """All of them, by store; of stores that are away none, which :meth:`KeyRing.problems` names."""
        first = await self._look()
        if not first:
            return ()
        await deferLater(self._reactor, SECONDS)
        still = set(await self._look())
        return tuple(one for one in first if one in still)

    async def destroy(self, location: str, *, actor: str) -> UnregisteredKey:
        """Destroy the key at exactly this location.

        Raises:
            Rejected: CONFIGURATION; it is none of those that :meth:`find` finds.
            KeyUnavailable: its store is away.
        """
        found = next((one for one in await self.find() if one.location == location), None)
        if found is None:
            text = f"{location} is no key that is in no record: `pkiserver key list --unregistered` shows those"
            raise Rejected.because(Refusal.CONFIGURATION, text)
        provider = self._providers.for_store(found.store)
        await executor_of(provider).run(lambda: provider.destroy(location))
        detail = f"not registered: {location}"
        await self._registry.note(found.name, actor=actor, operation="delete", outcome="ok", detail=detail)
        return found

    async def _look(self) -> tuple[UnregisteredKey, ...]:
        found: list[UnregisteredKey] = []
        for provider in self._providers.open_stores:
            try:
                there = await executor_of(provider).run_aside(provider.key_objects)
            except KeyUnavailable:
                continue
            # the records after the store: what was made before is registered by now, or soon
            uris = [record.uri for record in await self._registry.list()]
            found += [
                UnregisteredKey(provider.name, one.name, one.location, one.parts)
                for one in provider.besides(there, uris)
            ]
        return tuple(found)
