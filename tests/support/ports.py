"""Ports for servers that cannot take port 0, below those that the system gives to clients.

One of those may be somebody's between being found free and being listened on.
"""

from __future__ import annotations

import contextlib
import random
import socket

_SINGLE = range(5000, 10900)
_BASES = range(11000, 31300, 20)
_OFFSETS = (80, 90, 91, 389, 443, 636)
"""The ports of an instance, from its base; no two bases have one in common, nor has any of them a guard's."""
_GUARD = 5
_given: set[int] = set()
_guards: list[socket.socket] = []
_chance = random.SystemRandom()


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, by TCP or UDP; no two calls give the same."""
    for port in _chance.sample(_SINGLE, len(_SINGLE)):
        if port in _given:
            continue
        with socket.socket() as stream, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            try:
                stream.bind(("127.0.0.1", port))
                datagrams.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise RuntimeError("no free port")


def free_port_base() -> int:
    """A base whose ports are free now, for this process alone of all test processes, until it ends."""
    for base in _chance.sample(_BASES, len(_BASES)):
        with contextlib.ExitStack() as stack:
            try:
                guard = stack.enter_context(_bound(base + _GUARD))
                for offset in _OFFSETS:
                    stack.enter_context(_bound(base + offset)).close()
            except OSError:
                continue
            stack.pop_all()
        _guards.append(guard)
        return base
    raise RuntimeError("no free ports")


def _bound(port: int) -> socket.socket:
    one = socket.socket()
    try:
        one.bind(("127.0.0.1", port))
    except OSError:
        one.close()
        raise
    return one
