"""Paths in settings that are relative to the folder of their file."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any, TypeVar

import attrs

T = TypeVar("T")


def resolve_paths(settings: T, base: Path) -> T:
    """The same settings with every relative path (and SQLite file) taken from ``base``."""
    return typing.cast("T", _resolve(settings, base))


def _resolve(value: Any, base: Path) -> Any:
    if isinstance(value, Path):
        return base / value
    if isinstance(value, tuple):
        return tuple(_resolve(item, base) for item in value)
    if isinstance(value, str) and value.startswith("sqlite:///"):
        return f"sqlite:///{base / value.removeprefix('sqlite:///')}"
    if attrs.has(type(value)):
        changes = {}
        for attribute in attrs.fields(type(value)):
            old = getattr(value, attribute.name)
            new = _resolve(old, base)
            if new is not old and new != old:
                changes[attribute.alias] = new
        return attrs.evolve(value, **changes) if changes else value
    return value
