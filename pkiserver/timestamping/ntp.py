"""Time from NTP servers: one SNTP exchange each (RFC 5905 section 14), and what a majority of them agrees on."""

from __future__ import annotations

import math
import re
import secrets
import socket
import struct
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.threads import deferToThread

from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Unavailable
from pkiserver.timestamping.clockwatch import Reading

_PACKET = struct.Struct("!BBbbII4s8s8s8s8s")
_UNIX_EPOCH = 2_208_988_800
"""Seconds from 1900 to 1970."""
_CLIENT = 0x23
"""No leap indicator, version 4, client."""
_SERVER_MODE, _UNKNOWN_LEAP = 4, 3
_LEAPS = frozenset({1, 2})
_STRATA = range(1, 16)
_ERA = 1 << 32
LARGEST_DISTANCE = 1.5
"""Seconds of root distance beyond which a server knows nothing worth knowing (RFC 5905, MAXDIST)."""


class BadAnswer(ValueError):
    """A packet that says nothing about the time."""


@attrs.frozen
class Sample:
    """One server's answer, in seconds: the true time lies within ``offset`` +- ``distance`` of the clock."""

    offset: float
    distance: float
    leap: bool


def request(cookie: bytes) -> bytes:
    """A client packet that tells nothing but an unguessable cookie of 8 octets, where its time would be."""
    return _PACKET.pack(_CLIENT, 0, 0, 0, 0, 0, b"", b"", b"", b"", cookie)


def read_answer(packet: bytes, cookie: bytes, sent: float, elapsed: float) -> Sample:
    """What a server's answer says.

    Args:
        packet: As received.
        cookie: Of the request.
        sent: When it was sent, by our clock, in seconds since 1970.
        elapsed: Seconds from then to the answer, by the steady clock.

    Raises:
        BadAnswer: It is no answer to this request, or the server does not know the time itself.
    """
    if len(packet) < _PACKET.size:
        raise BadAnswer("a packet that is too short")
    head, stratum, _, precision, delay, dispersion, code, _, origin, received, sent_back = _PACKET.unpack(
        packet[: _PACKET.size]
    )
    if head & 7 != _SERVER_MODE or origin != cookie:
        raise BadAnswer("no answer to our question")
    if stratum == 0:
        raise BadAnswer(f"refused: {re.sub(rb'[^A-Z0-9]', b'', code).decode()}")
    if head >> 6 == _UNKNOWN_LEAP or stratum not in _STRATA or not int.from_bytes(sent_back, "big"):
        raise BadAnswer("the server is not synchronised")
    arrived, left = (_near(stamp, sent) for stamp in (received, sent_back))
    offset = (arrived - sent + left - (sent + elapsed)) / 2
    path = max(elapsed - (left - arrived), 0.0)
    distance: float = path / 2 + delay / 65536 / 2 + dispersion / 65536 + math.ldexp(1.0, precision)
    if distance > LARGEST_DISTANCE:
        raise BadAnswer(f"the server is unsure by {distance:.3f} s")
    return Sample(offset, distance, (head >> 6) in _LEAPS)


def _near(stamp: bytes, moment: float) -> float:
    """An NTP timestamp in seconds since 1970, in the era in which it is nearest to ``moment``."""
    seconds, fraction = struct.unpack("!II", stamp)
    whole = int(moment)
    apart = (int(seconds) - _UNIX_EPOCH - whole) % _ERA
    if apart >= _ERA // 2:
        apart -= _ERA
    return whole + apart + int(fraction) / _ERA


def agree(samples: Sequence[Sample], servers: int) -> Reading:
    """What more than half of all ``servers`` say (Marzullo's intersection); raises :class:`Unavailable`."""
    needed = servers // 2 + 1
    if len(samples) < needed:
        raise Unavailable(f"only {len(samples)} of {servers} servers answered, {needed} are needed")
    edges = sorted(
        [(one.offset - one.distance, 0) for one in samples] + [(one.offset + one.distance, 1) for one in samples]
    )
    most = count = 0
    low = high = 0.0
    for position, (edge, ends) in enumerate(edges):
        if ends:
            count -= 1
            continue
        count += 1
        if count > most:
            # the next edge, whichever kind it is, ends the stretch that this many share
            most, low, high = count, edge, edges[position + 1][0]
    if most < needed:
        raise Unavailable(f"no {needed} of {servers} servers agree on the time")
    agreeing = [one for one in samples if one.offset - one.distance <= high and one.offset + one.distance >= low]
    leap = sum(one.leap for one in agreeing) * 2 > len(agreeing)
    return Reading((low + high) / 2, (high - low) / 2, leap)


class _Exchange(DatagramProtocol):
    """One question to one server."""

    def __init__(self, cookie: bytes) -> None:
        self.cookie = cookie
        self.answered: Deferred[bytes] = Deferred()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: N802 - Twisted's name
        """The first packet that carries our cookie; others may be forged."""
        del addr
        if datagram[24:32] == self.cookie and not self.answered.called:
            self.answered.callback(datagram)

    def connectionRefused(self) -> None:  # noqa: N802 - Twisted's name
        """Nobody listens there."""
        if not self.answered.called:
            self.answered.errback(Unavailable("connection refused"))


class NtpSource:
    """Asks a list of NTP servers."""

    name = "ntp"

    def __init__(self, servers: Sequence[str], clock: Clock, *, timeout: float, reactor: Any) -> None:
        self._servers = tuple(servers)
        self._clock = clock
        self._timeout = timeout
        self._reactor = reactor

    async def read(self) -> Reading:
        """Ask all of them at once; raises :class:`Unavailable`."""
        pending = [Deferred.fromCoroutine(self._ask(server)) for server in self._servers]
        answers = [await one for one in pending]
        samples = [one for one in answers if isinstance(one, Sample)]
        try:
            return agree(samples, len(self._servers))
        except Unavailable as error:
            failures = [one for one in answers if isinstance(one, str)]
            raise Unavailable("; ".join([error.text, *failures])) from None

    async def _ask(self, server: str) -> Sample | str:
        try:
            return await self._exchange(server)
        except (BadAnswer, Unavailable, OSError, CannotListenError) as error:
            return f"{server}: {error}"
        except DeferredTimeout:
            return f"{server}: no answer within {self._timeout:g} s"

    async def _exchange(self, server: str) -> Sample:
        host, port = split_server(server)
        family, address = await deferToThread(_resolve, host, port).addTimeout(self._timeout, self._reactor)
        protocol = _Exchange(secrets.token_bytes(8))
        interface = "::" if family == socket.AF_INET6 else ""
        listening = self._reactor.listenUDP(0, protocol, interface)
        try:
            transport: Any = protocol.transport
            transport.connect(address, port)  # only answers from there come through
            sent, begun = self._clock.now().timestamp(), self._clock.monotonic()
            transport.write(request(protocol.cookie))
            packet = await protocol.answered.addTimeout(self._timeout, self._reactor)
            return read_answer(packet, protocol.cookie, sent, self._clock.monotonic() - begun)
        finally:
            listening.stopListening()


def split_server(server: str) -> tuple[str, int]:
    """Host and port of ``HOST[:PORT]`` or ``[IPV6][:PORT]``; 123 where none is said.

    Raises:
        Unavailable: it is written otherwise.
    """
    match = re.fullmatch(r"\[(?P<v6>[^\]]+)\](:(?P<p6>[0-9]+))?|(?P<host>[^:]+)(:(?P<port>[0-9]+))?", server)
    if match is None:
        raise Unavailable(f"{server!r} is no time server")
    return match["v6"] or match["host"], int(match["p6"] or match["port"] or 123)


def _resolve(host: str, port: int) -> tuple[int, str]:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    return family, str(address[0])
