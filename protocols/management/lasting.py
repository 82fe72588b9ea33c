"""Work that goes on although whoever asked for it has left."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkiserver.foundation.errors import PkiError

T = TypeVar("T")
_log = Logger(namespace="pkiserver.api")


def to_the_end(work: Awaitable[T]) -> Deferred[T]:
    """What comes of some work. Cancelling the wait for it does not cancel the work.

    Klein cancels a call whose connection breaks. A change may be several transactions, such as the last vote and what
    it decides: half of them is worse than none.
    """

    async def whole() -> T:
        return await work

    waiting: Deferred[T] = Deferred()

    def failed(failure: Failure) -> None:
        if waiting.called and not isinstance(failure.value, PkiError):
            _log.failure("a call failed whose caller had left", failure)
        waiting.errback(failure)

    Deferred.fromCoroutine(whole()).addCallbacks(waiting.callback, failed)
    return waiting
