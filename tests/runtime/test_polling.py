"""The reactor goes round its connections straight: all that Twisted's own way promises them still holds."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python import context
from twisted.python.failure import Failure
from twisted.python.log import ILogContext
from zope.interface import provider

from pkiserver.runtime.polling import WITHIN, idle_moments, poll_straight

LONG = 4 * 1024 * 1024


class _Says(Protocol):
    """Does what it is told; the factory keeps what came of it."""

    def dataReceived(self, data: bytes) -> None:
        self.factory.received.append(data)
        match data:
            case b"fail":
                raise RuntimeError("as told")
            case b"context":
                self.transport.write(context.get(ILogContext)["system"].encode())
            case b"long":
                self.transport.write(bytes(LONG))
            case b"cut the others":
                for other in self.factory.open - {self}:
                    other.transport.abortConnection()
            case _:
                self.transport.write(data.upper())

    def connectionMade(self) -> None:
        self.factory.open.add(self)

    def connectionLost(self, reason: Failure) -> None:
        self.factory.open.discard(self)
        self.factory.lost.append(reason.type.__name__)
        if self.factory.fails_at_the_end:
            raise RuntimeError("at the end")


class Served:
    """A reactor of the test's own, turned by hand, that serves on a port."""

    def __init__(self) -> None:
        self.reactor: Any = EPollReactor()
        poll_straight(self.reactor)
        self.factory: Any = Factory.forProtocol(_Says)
        self.factory.open, self.factory.received, self.factory.lost = set(), [], []
        self.factory.fails_at_the_end = False
        self._port = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1")
        self.clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self._port.getHost().port))
        client.settimeout(0.02)
        self.clients.append(client)
        self.until(lambda: len(self.factory.open) == len([one for one in self.clients if one.fileno() >= 0]))
        return client

    def until(self, reached: Callable[[], bool]) -> None:
        for _ in range(500):
            if reached():
                return
            self.reactor.iterate(0.02)
        raise AssertionError("not reached")

    def answer(self, client: socket.socket, octets: int) -> bytes:
        """What the client is sent, up to so many octets or its end."""
        found = bytearray()

        def read() -> bool:
            try:
                while len(found) < octets and (piece := client.recv(65536)):
                    found.extend(piece)
            except TimeoutError:
                return False
            return True

        self.until(read)
        return bytes(found)


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    for client in served.clients:
        client.close()
    served.factory.fails_at_the_end = False
    served.until(lambda: not served.factory.open)
    served.reactor.removeAll()


@pytest.fixture
def failures() -> Iterator[list[str]]:
    """What the log is told of failures."""
    found: list[str] = []

    @provider(ILogObserver)
    def observe(event: dict[str, Any]) -> None:
        if "log_failure" in event:
            found.append(str(event["log_failure"].value))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def test_octets_go_to_their_connection_without_a_log_context(served: Served) -> None:
    client = served.connect()
    client.send(b"context")
    assert served.answer(client, 1) == b"-"  # Twisted's own way says _Says,0,127.0.0.1


def test_a_connection_that_fails_is_told_and_ended_and_no_other(served: Served, failures: list[str]) -> None:
    first, second = served.connect(), served.connect()
    first.send(b"fail")
    second.send(b"hello")
    assert served.answer(second, 5) == b"HELLO"
    assert served.answer(first, 1) == b""
    assert failures == ["as told"]
    assert served.factory.lost == ["RuntimeError"]


def test_what_fails_at_the_end_of_a_connection_is_told(served: Served, failures: list[str]) -> None:
    served.factory.fails_at_the_end = True
    first, second = served.connect(), served.connect()
    first.close()
    served.until(lambda: len(served.factory.open) == 1)
    second.send(b"hello")
    assert served.answer(second, 5) == b"HELLO"
    assert failures == ["at the end"]


@pytest.mark.parametrize(("linger", "reason"), [(None, "ConnectionDone"), ((1, 0), "ConnectionLost")])
def test_the_end_of_a_client_is_noticed(served: Served, linger: tuple[int, int] | None, reason: str) -> None:
    client = served.connect()
    if linger is not None:  # the client resets the connection
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", *linger))
    client.close()
    served.until(lambda: served.factory.lost == [reason])


def test_octets_for_a_connection_that_an_earlier_event_closed_are_dropped(served: Served) -> None:
    clients = [served.connect() for _ in range(3)]
    for client in clients:
        client.send(b"cut the others")
    served.until(lambda: len(served.factory.lost) == 2)
    assert served.factory.received == [b"cut the others"]


def test_an_answer_longer_than_the_kernel_takes_at_once_arrives(served: Served) -> None:
    client = served.connect()
    client.send(b"long")
    assert served.answer(client, LONG) == bytes(LONG)


def test_what_waits_for_an_idle_moment_is_called_in_its_order_when_nothing_else_is_to_be_done(
    served: Served, failures: list[str]
) -> None:
    client, called = served.connect(), list[object]()
    when_idle = idle_moments(served.reactor)
    assert when_idle is not None

    def fail() -> None:
        raise RuntimeError("idle hands")

    for call in (fail, lambda: called.append(len(served.factory.received)), lambda: called.append("second")):
        when_idle(call)
    client.send(b"hello")
    served.until(lambda: bool(called))
    assert called == [1, "second"]  # after the octets that had come by then
    assert failures == ["idle hands"]


def test_a_reactor_that_is_never_idle_calls_what_waits_nonetheless(served: Served) -> None:
    turns: list[float] = []
    called: list[int] = []
    when_idle = idle_moments(served.reactor)
    assert when_idle is not None
    when_idle(lambda: called.append(len(turns)))
    while not called and len(turns) < 1_000_000:
        turns.append(time.monotonic())
        served.reactor.iterate(0)  # as where a call is due in every turn
    assert len(called) == 1
    assert turns[-1] - turns[0] > WITHIN / 2


def test_what_is_called_in_an_idle_moment_may_give_the_reactor_more_to_do(served: Served) -> None:
    called: list[str] = []
    when_idle = idle_moments(served.reactor)
    assert when_idle is not None

    def again() -> None:
        called.append("first")
        served.reactor.callLater(0, when_idle, lambda: called.append("second"))

    when_idle(again)
    served.until(lambda: called == ["first", "second"])


def test_a_reactor_that_is_not_gone_round_straight_knows_no_idle_moments() -> None:
    reactor = EPollReactor()
    try:
        assert idle_moments(reactor) is None
    finally:
        reactor.removeAll()
