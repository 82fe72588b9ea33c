"""The maker of the server's own keys, for the protocols that need some."""

from __future__ import annotations

from pkiserver.authority.delegates.ownkeys import OwnKeys
from pkiserver.authority.road import new_holder
from pkiserver.authority.status.turns import Turns
from pkiserver.runtime.engine import Engine


def own_keys(engine: Engine) -> OwnKeys:
    """The engine's parts as keepers of keys need them, with turns of their own."""
    road = engine.road
    turns = Turns(engine.database, engine.clock, new_holder(engine.settings.node))
    return OwnKeys(engine.database, engine.keys, engine.authorities, road.preparer, road.issuer, turns, engine.clock)
