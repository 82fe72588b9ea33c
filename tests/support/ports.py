"""Ports for servers that cannot take port 0."""

from __future__ import annotations

import random
import socket

_RANGE = range(5000, 10900)
"""Below those of :func:`tests.support.instance.free_port_base`, and below those that the system gives to clients: one
of these may be somebody's between being found free and being listened on."""
_given: set[int] = set()
_chance = random.SystemRandom()


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, by TCP or UDP; no two calls give the same."""
    for port in _chance.sample(_RANGE, len(_RANGE)):
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
