"""Dictionaries that remember so much and no more."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep(known: dict[K, V], key: K, value: V, *, most: int) -> None:
    """Set an entry; where there would be more than ``most``, the one that was set first goes."""
    if len(known) >= most and key not in known:
        del known[next(iter(known))]
    known[key] = value
