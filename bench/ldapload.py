"""A load generator of its own process: exact mail look-ups over kept LDAP connections, one under way on each."""

from __future__ import annotations

import argparse
import random
import selectors
import socket
import time

ADDRESS = "p%07d@example.com"
BASE = "o=pkiserver"


def template(base: str) -> bytes:
    """A search for one address, message number 1; the address is the last thing before the attribute list."""
    from protocols.addressbook import ber
    from protocols.addressbook.ber import tlv

    address = ADDRESS % 0
    filter_ = tlv(0xA3, tlv(4, b"mail") + tlv(4, address.encode()))
    body = tlv(4, base.encode()) + b"\x0a\x01\x02\x0a\x01\x00\x02\x01\x00\x02\x01\x00\x01\x01\x00" + filter_
    attributes = tlv(0x30, tlv(4, b"userCertificate;binary"))
    return tlv(0x30, ber.integer(1) + tlv(0x63, body + attributes))


def complete(data: bytes) -> bool:
    """Whether an entry and the search's end are there."""
    position = 0
    messages = 0
    while position + 2 <= len(data):
        length, size = data[position + 1], 2
        if length & 0x80:
            count = length & 0x7F
            size += count
            length = int.from_bytes(data[position + 2 : position + size], "big")
        position += size + length
        messages += 1
    return position == len(data) and data[-9:-7] == b"\x65\x07" and messages >= 1


class Load:
    """Connections, and what is asked over them."""

    def __init__(self, port: int, connections: int, people: int) -> None:
        self._people = people
        self._selector = selectors.DefaultSelector()
        self._buffers: dict[int, bytes] = {}
        request = template(BASE)
        at = request.index(b"p0000000@")
        self._head, self._tail = request[:at], request[at + len(ADDRESS % 0) :]
        self._random = random.Random(7)
        self.empty = 0
        self.sockets = []
        for _ in range(connections):
            one = socket.create_connection(("127.0.0.1", port))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(one, selectors.EVENT_READ)
            self.sockets.append(one)

    def ask(self, one: socket.socket, number: int) -> None:
        self._buffers[one.fileno()] = b""
        one.sendall(self._head + (ADDRESS % number).encode() + self._tail)

    def _answered(self, one: socket.socket) -> bool:
        data = self._buffers[one.fileno()] + one.recv(65536)
        self._buffers[one.fileno()] = data
        if not complete(data):
            return False
        self.empty += len(data) < 200
        return True

    def run(self, seconds: float) -> float:
        """Random people for so long; answers per second."""
        done = 0
        for one in self.sockets:
            self.ask(one, self._random.randrange(self._people))
        begun = time.perf_counter()
        while (now := time.perf_counter()) - begun < seconds:
            for key, _ in self._selector.select(1.0):
                one: socket.socket = key.fileobj  # type: ignore[assignment]
                if self._answered(one):
                    done += 1
                    self.ask(one, self._random.randrange(self._people))
        rate = done / (now - begun)
        for one in self.sockets:
            while not self._answered(one):
                pass
        return rate

    def once_each(self) -> None:
        """Everybody once, so that what can be in memory is."""
        (one, *_) = self.sockets
        for number in range(self._people):
            self.ask(one, number)
            while not self._answered(one):
                pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("people", type=int)
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--warm", action="store_true")
    arguments = parser.parse_args()
    load = Load(arguments.port, arguments.connections, arguments.people)
    if arguments.warm:
        load.once_each()
        print("0")
        return
    rate = load.run(arguments.seconds)
    if load.empty:
        raise SystemExit(f"{load.empty} answers were empty")
    print(rate)


if __name__ == "__main__":
    main()
