"""Workers share sockets: none of them takes a whole crowd of connections for itself."""

from __future__ import annotations

import socket
from time import sleep
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

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


async def test_what_the_kernel_does_not_take_at_once_follows_in_order() -> None:
    """Several writes of many sizes, to somebody who begins to read only later, and then the end of the connection."""
    pieces = [bytes([number % 251]) * (number * 2997) for number in range(120)]

    class Talking(Protocol):
        def connectionMade(self) -> None:
            assert self.transport is not None
            for piece in pieces:
                self.transport.write(piece)
            self.transport.loseConnection()

    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    port: Any = adopt(BoundSocket("http", listening), Factory.forProtocol(Talking))

    def read() -> bytes:
        with socket.create_connection(listening.getsockname(), 10) as client:
            sleep(0.2)
            return b"".join(iter(lambda: client.recv(30000), b""))

    try:
        assert await deferToThread(read) == b"".join(pieces)
    finally:
        await port.stopListening()
        listening.close()
