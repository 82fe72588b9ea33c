"""Which sockets a node listens on, and how a worker is told of them. Light: the parent of the workers loads it too."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

import attrs

from pkiserver.runtime.config import NodeSettings
from pkiserver.runtime.sockets import BoundSocket


def wanted_sockets(settings: NodeSettings) -> dict[str, Sequence[Any]]:
    """Listener name to its endpoints."""
    return {
        "http": settings.http.listen,
        "https": settings.https.listen,
        "ldap": settings.ldap.listen,
        "ldaps": settings.ldap.listen_tls,
        "management": settings.management.listen,
        "api": settings.api.listen,
    }


@attrs.frozen
class Inherited:
    """A socket as it is told to a worker: ``listener=descriptor``."""

    listener: str
    descriptor: int

    @classmethod
    def parse(cls, text: str) -> Inherited:
        """Read ``http=3``; raises :class:`ValueError`."""
        listener, _, number = text.partition("=")
        return cls(listener, int(number))

    def open(self) -> BoundSocket:
        """The socket, which later children of this process do not inherit."""
        os.set_inheritable(self.descriptor, False)
        one = socket.socket(fileno=self.descriptor)
        one.setblocking(False)
        return BoundSocket(self.listener, one)
