"""Reach a server: resolve its name, connect, shake hands, each within its time and each told apart when it fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004 - Twisted's own name
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from pkiserver.foundation.clock import Clock
from pkiserver.outbound.problems import AllServersFailed, OutboundError, Trouble

T = TypeVar("T")
S = TypeVar("S", bound="Named")

REST = 30.0
"""Seconds for which a server that did not answer is asked last."""


class Named(Protocol):
    """A server as it is shown to people."""

    def __str__(self) -> str: ...


def _ended() -> Failure:
    make: Any = Failure  # not typed
    failure: Failure = make(TimeoutError())
    return failure


async def within(work: Awaitable[T], seconds: float, error: Callable[[], Exception]) -> T:
    """The result of ``work``, which is cancelled after so many seconds; raises what ``error`` makes."""
    # a coroutine is what fromCoroutine wants; a Deferred serves as it is
    deferred: Deferred[T] = (
        work if isinstance(work, Deferred) else Deferred.fromCoroutine(cast("Coroutine[Any, Any, T]", work))
    )
    # whatever a cancelled conversation ends with, it was the time that ended it
    deferred.addTimeout(seconds, IReactorTime(_reactor), lambda _result, _seconds: _ended())
    try:
        return await deferred
    except TimeoutError:
        raise error() from None


@implementer(IResolutionReceiver)
class _Addresses:
    """Gathers what the resolver finds."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.done: Deferred[None] = Deferred()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:  # noqa: N802, N803
        """Twisted's interface."""

    def addressResolved(self, address: IAddress) -> None:  # noqa: N802
        """Keep an address."""
        self.found.append(str(getattr(address, "host", "")))

    def resolutionComplete(self) -> None:  # noqa: N802
        """All have come."""
        if not self.done.called:
            self.done.callback(None)


async def resolve(host: str, seconds: float) -> tuple[str, ...]:
    """The addresses of a host, in the resolver's order; an address is itself.

    Raises:
        OutboundError: RESOLVE: there is no such name, or the resolver did not answer in time.
    """
    receiver = _Addresses()
    resolver: IHostnameResolver = IReactorPluggableNameResolver(_reactor).nameResolver
    resolver.resolveHostName(receiver, host)
    await within(receiver.done, seconds, lambda: OutboundError(Trouble.RESOLVE, host, "the resolver does not answer"))
    if not receiver.found:
        raise OutboundError(Trouble.RESOLVE, host, "there is no such name")
    return tuple(dict.fromkeys(receiver.found))


async def connect(factory: IProtocolFactory, host: str, port: int, limit: timedelta) -> IProtocol:
    """A TCP connection to the first address that takes one, within ``limit`` for all of them.

    Raises:
        OutboundError: RESOLVE or CONNECT.
    """
    seconds = limit.total_seconds()
    server = f"{host}:{port}"
    addresses = await resolve(host, seconds)
    last = "no address"
    for address in addresses:
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        # one address that swallows packets must leave time for the next
        endpoint = kind(_reactor, address, port, timeout=seconds / len(addresses))
        try:
            return await cast("Deferred[IProtocol]", endpoint.connect(factory))
        except ConnectError as error:
            last = f"{address}: {error}".rstrip(".")
    raise OutboundError(Trouble.CONNECT, server, last)


def once(make: Callable[[], IProtocol]) -> IProtocolFactory:
    """A factory for one connection."""
    factory = Factory.forProtocol(cast("Any", make))
    factory.noisy = False
    return cast("IProtocolFactory", factory)


class Servers:
    """Several servers that serve alike: asked in their order, those that failed a moment ago last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: dict[str, float] = {}

    async def first(self, servers: tuple[S, ...], attempt: Callable[[S], Awaitable[T]]) -> T:
        """What ``attempt`` returns for the first server that can be talked to.

        Raises:
            OutboundError: none could; with each server's error.
        """
        now = self._clock.monotonic()
        resting = {name for name, at in self._failed.items() if now - at < REST}
        errors = []
        for server in sorted(servers, key=lambda one: str(one) in resting):
            try:
                result = await attempt(server)
            except OutboundError as error:
                self.failed(server)
                errors.append(error)
            else:
                self._failed.pop(str(server), None)
                return result
        raise errors[0] if len(errors) == 1 else AllServersFailed(tuple(errors))

    def failed(self, server: Named) -> None:
        """A server could not be talked to, or not to the end: it is asked last for a while."""
        self._failed[str(server)] = self._clock.monotonic()
