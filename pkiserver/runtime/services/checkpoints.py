"""The job that lets a key sign the audit log's heads, once in each interval however many processes there are."""

from __future__ import annotations

from datetime import timedelta

from pkiserver.authority.status.turns import Turns
from pkiserver.keys.checkpoints import checkpoint_sign
from pkiserver.keys.doors import Door
from pkiserver.keys.keyring import KeyRing
from pkiserver.runtime.engine import Engine
from pkiserver.store import audit as rows
from pkiserver.store.times import from_micros


def checkpoint_key(keys: KeyRing) -> str | None:
    """The key that is bound to checkpoints, the first by name; None when there is none."""
    return min((key.name for key in keys.list() if Door.CHECKPOINT in key.record.doors), default=None)


class Checkpoints:
    """Makes checkpoints, unless another process did so within the interval or there is no key for it."""

    def __init__(self, engine: Engine, interval: timedelta, holder: str) -> None:
        self._engine = engine
        self._interval = interval
        self._turns = Turns(engine.database, engine.clock, holder)

    async def run_due(self) -> int | None:
        """Make one if it is due; its number, or None.

        Raises:
            Unavailable: the key or the database is away.
        """
        name = checkpoint_key(self._engine.keys)
        if name is None or not await self._is_due():
            return None
        async with self._turns.turn("audit-checkpoint") as turn:
            if turn is None or not await self._is_due():
                return None
            return await self._engine.audit.checkpoint(checkpoint_sign(self._engine.keys, name))

    async def _is_due(self) -> bool:
        last = await self._engine.database.read(rows.last_checkpoint)
        return last is None or self._engine.clock.now() - from_micros(last.at) >= self._interval
