"""Workers share sockets: none of them takes a whole crowd of connections for itself."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.protocol import Factory, Protocol

from pkiserver.runtime.services.acceptance import adopt
from pkiserver.runtime.sockets import BoundSocket


async def test_one_look_at_the_socket_accepts_one_connection() -> None:
    made: list[Protocol] = []

    class Counting(Factory):
        def buildProtocol(self, addr: Any) -> Protocol:
            made.append(Protocol())
            return made[-1]

    listening = socket.create_server(("127.0.0.1", 0), backlog=50)
    listening.setblocking(False)
    port: Any = adopt(BoundSocket("http", listening), Counting())
    crowd = [socket.create_connection(listening.getsockname()) for _ in range(20)]
    try:
        for expected in (1, 2, 3):  # nothing runs in between but what is called here
            port.doRead()
            assert len(made) == expected
    finally:
        for one in made:
            assert one.transport is not None
            one.transport.abortConnection()  # type: ignore[attr-defined]
        await port.stopListening()
        for client in crowd:
            client.close()
        listening.close()
