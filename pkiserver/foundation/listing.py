"""Lists in sentences for people, which stay sentences however long the lists are."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 5
"""Items that are named before the rest is only counted."""


def listed(items: Sequence[str]) -> str:
    """The items with commas between them; of many only the first, and how many more there are."""
    more = len(items) - MOST
    return ", ".join(items[:MOST]) + (f" and {more} more" if more > 0 else "")
