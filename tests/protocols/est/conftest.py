"""The EST listener as a fixture."""

from __future__ import annotations

from tests.protocols.est.support import site

__all__ = ["site"]
