"""EST listeners: one over an engine that the test sees into, one over the real engine."""

from __future__ import annotations

from tests.protocols.est.support import site
from tests.protocols.est.world import world

__all__ = ["site", "world"]
