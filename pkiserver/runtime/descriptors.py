"""How many files and connections this process may have open, and keeping the last of them for what serves the others.

Whoever holds connections open must not be able to take the descriptors that the database, the token and outgoing
connections need: those would fail at a moment when nothing else is wrong.
"""

from __future__ import annotations

import os
import resource

WANTED = 65_536
"""As many descriptors as this process asks for, where it may: shells give 1,024, less than the listeners' limits."""
RESERVE = 128
"""Descriptors that connections of the public listeners leave free; at most a quarter of all."""


def raise_limit() -> int:
    """Raise the soft limit as far as the hard limit allows; child processes have it from there.

    Returns:
        The limit that holds now.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return soft


def few_left(descriptor: int, *, reserve: int = RESERVE) -> bool:
    """Whether no more than ``reserve`` descriptors are free; ``descriptor`` is any that is open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return False
    try:
        # always the lowest number that is free
        next_one = os.dup(descriptor)
    except OSError:
        return True
    os.close(next_one)
    return next_one >= limit - min(reserve, limit // 4)
