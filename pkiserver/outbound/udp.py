"""Ask over UDP: send, send again until an answer is taken, give up in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorTime, IReactorUDP
from twisted.internet.protocol import DatagramProtocol

from pkiserver.outbound.problems import OutboundError, Trouble

MAX_DATAGRAM = 4096


class _Question(DatagramProtocol):
    """One question from a port of its own, so that an answer cannot be guessed by its port."""

    def __init__(self, address: str, port: int, datagram: bytes, take: Callable[[bytes], bool]) -> None:
        self._to = (address, port)
        self._datagram = datagram
        self._take = take
        self.done: Deferred[None] = Deferred()
        self.untaken = 0

    def startProtocol(self) -> None:  # noqa: N802
        """Twisted's interface: talk with that one address only."""
        assert self.transport is not None
        self.transport.connect(*self._to)

    def send(self) -> None:
        """Send the question once more."""
        if self.transport is None:
            return
        try:
            self.transport.write(self._datagram, None)
        except OSError as error:  # no route
            self._fail(str(error.strerror))

    def datagramReceived(self, datagram: bytes, addr: object) -> None:  # noqa: N802, ARG002
        """An answer, if ``take`` says so."""
        if len(datagram) <= MAX_DATAGRAM and self._take(datagram):
            if not self.done.called:
                self.done.callback(None)
        else:
            self.untaken += 1

    def connectionRefused(self) -> None:  # noqa: N802
        """Nobody listens there (ICMP port unreachable)."""
        self.stopProtocol()

    def stopProtocol(self) -> None:  # noqa: N802
        """The same: Twisted's epoll reactor closes a port that has an error."""
        self._fail("nobody listens there")

    def _fail(self, text: str) -> None:
        if not self.done.called:
            host, port = self._to
            self.done.errback(OutboundError(Trouble.CONNECT, f"{host}:{port}", text))


async def ask_host(
    addresses: tuple[str, ...], port: int, datagram: bytes, take: Callable[[bytes], bool], *, tries: int, wait: float
) -> str:
    """Ask a host's addresses in turn until one answers; which one. ``tries`` is for all of them, one each at least.

    Raises:
        OutboundError: as :func:`ask`; SILENT where any address may have been listening.
    """
    each = max(1, -(-tries // len(addresses)))
    errors: list[OutboundError] = []
    for address in addresses:
        try:
            await ask(address, port, datagram, take, tries=each, wait=wait)
        except OutboundError as error:
            if error.trouble is Trouble.ANSWER:
                raise
            errors.append(error)
        else:
            return address
    raise next((error for error in errors if error.trouble is Trouble.SILENT), errors[-1])


async def ask(
    address: str, port: int, datagram: bytes, take: Callable[[bytes], bool], *, tries: int, wait: float
) -> None:
    """Send a datagram up to ``tries`` times, ``wait`` seconds apart, until ``take`` accepts what comes back.

    Raises:
        OutboundError: CONNECT (nobody listens), SILENT (nothing came), ANSWER (nothing that came was accepted).
    """
    question = _Question(address, port, datagram, take)
    clock = IReactorTime(_reactor)
    interface = "::" if ":" in address else ""
    server = f"{address}:{port}"
    try:
        listening = IReactorUDP(_reactor).listenUDP(0, cast("Any", question), interface, MAX_DATAGRAM + 1)
    except (CannotListenError, OSError) as error:  # a machine without IPv6, or without a route there
        raise OutboundError(Trouble.CONNECT, server, str(error)) from error
    calls = [clock.callLater(count * wait, question.send) for count in range(tries)]

    def give_up() -> None:
        if question.done.called:
            return
        if question.untaken:
            question.done.errback(OutboundError(Trouble.ANSWER, server, "answers came, and none of them verifies"))
        else:
            question.done.errback(OutboundError(Trouble.SILENT, server, f"no answer to {tries} packets"))

    calls.append(clock.callLater(tries * wait, give_up))
    try:
        await question.done
    finally:
        for call in calls:
            if call.active():
                call.cancel()
        stopping = listening.stopListening()
        if stopping is not None:
            stopping.addErrback(lambda _: None)
