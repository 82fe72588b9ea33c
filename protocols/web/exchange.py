"""One request on its way to an answer."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from pkiserver.foundation.errors import Defect, PkiError
from protocols.web import errors
from protocols.web.errors import LimitHit
from protocols.web.listener import Listener
from protocols.web.metrics import NO_ROUTE
from protocols.web.values import Answer, EncodedResponse, Request, Response, Route


class Exchange:
    """A request, the route it found, and in the end the answer. Exchanges of a connection are answered in order."""

    # What most exchanges leave as it is stands with the class: one is made for each request, and that is felt.
    route: Route | None = None
    answer: Answer | None = None
    abandoned = False
    """The client has left; whatever the handler still raises concerns nobody."""
    close = False
    """The connection closes after the answer."""
    linger = False
    """Octets of the request may still be under way when the connection closes."""
    keep_alive_1_0 = False
    limit: LimitHit | None = None
    reason = ""
    deadline = float("inf")
    waiting: Deferred[Answer] | None = None

    def __init__(self, method: str, path: str, request_id: str, since: float) -> None:
        self.method = method
        self.path = path
        self.request_id = request_id
        self.since = since
        """Monotonic seconds at which the request was complete."""

    def refuse(self, refusal: errors.BadRequest) -> None:
        """Answer for the edge itself."""
        self.answer = refusal.response()
        self.limit = refusal.limit
        self.reason = refusal.text

    def call(self, route: Route, request: Request, listener: Listener) -> Deferred[Answer] | None:
        """Call the handler; its Deferred when it has not answered yet. Whatever it raises becomes an answer."""
        self.route = route
        try:
            outcome = route.handler(request)
            if isinstance(outcome, (Response, EncodedResponse)):
                self.answer = outcome
                return None
            return self._wait(outcome, route, request, listener)
        except Exception:  # noqa: BLE001 -- the edge outlives every handler, whatever is wrong with it
            self._fail(Failure(), request, listener)  # type: ignore[no-untyped-call]
        return None

    def _wait(
        self, outcome: Awaitable[Answer], route: Route, request: Request, listener: Listener
    ) -> Deferred[Answer] | None:
        if isinstance(outcome, Coroutine):
            if listener.is_busy(route):
                outcome.close()
                self.refuse(busy(listener))
                return None
            try:
                # Many coroutines have nothing to wait for: those need no Deferred.
                first = outcome.send(None)
            except StopIteration as end:
                self._succeed(end.value, request, listener)
                return None
            deferred = Deferred.fromCoroutine(_resume(outcome, first))
        else:
            deferred = outcome if isinstance(outcome, Deferred) else Deferred.fromCoroutine(_awaiting(outcome))
        deferred.addCallbacks(
            self._succeed, self._fail_later, callbackArgs=(request, listener), errbackArgs=(request, listener)
        )
        return deferred if self.answer is None else None

    def _succeed(self, answer: Answer, request: Request, listener: Listener) -> None:
        if isinstance(answer, (Response, EncodedResponse)):
            self.answer = answer
        else:
            self._fail(Failure(Defect(f"a handler answered with {type(answer).__name__}")), request, listener)

    def _fail_later(self, failure: Failure, request: Request, listener: Listener) -> None:
        if self.abandoned:
            return
        if isinstance(failure.value, CancelledError) and self.limit is LimitHit.HANDLER_TIME:
            self.answer = errors.plain(503, "took too long", headers=retry_after(listener))
            return
        self._fail(failure, request, listener)

    def _fail(self, failure: Failure, request: Request, listener: Listener) -> None:
        assert self.route is not None
        error = failure.value
        if isinstance(error, PkiError) and not isinstance(error, Defect):
            try:
                self.answer = (self.route.refuse or _refuse)(request, error)
            except Exception:  # noqa: BLE001 -- a faulty mapping is one more defect, not a lost connection
                failure = Failure()  # type: ignore[no-untyped-call]
            else:
                return
        self.limit = LimitHit.HANDLER_ERROR
        listener.log.failed(failure, route=self.route.name, request_id=self.request_id, peer=request.peer.address)
        self.answer = self._defect_answer(request, error)

    def unfit(self, listener: Listener, peer: str) -> Response:
        """The answer could not be encoded (call while that error is handled): log it, and what to answer instead."""
        self.limit = LimitHit.HANDLER_ERROR
        failure = Failure()  # type: ignore[no-untyped-call]
        name = NO_ROUTE if self.route is None else self.route.name
        listener.log.failed(failure, route=name, request_id=self.request_id, peer=peer)
        return errors.failure()

    def _defect_answer(self, request: Request, error: BaseException | None) -> Answer:
        if isinstance(error, Defect) and self.route is not None and self.route.refuse is not None:
            try:
                return self.route.refuse(request, error)
            except Exception:  # noqa: BLE001 -- as above; the first failure is in the log
                return errors.failure()
        return errors.failure()


@types.coroutine
def _resume(begun: Coroutine[Any, Any, Answer], yielded: Any) -> Generator[Any, Any, Answer]:
    """Go on with a coroutine that has yielded once already (PEP 380's delegation, entered in the middle)."""
    try:
        while True:
            try:
                value = yield yielded
            except BaseException as error:  # noqa: BLE001 -- whatever it is, it is the coroutine's to handle
                yielded = begun.throw(error)
            else:
                yielded = begun.send(value)
    except StopIteration as end:
        return cast("Answer", end.value)


async def _awaiting(outcome: Awaitable[Answer]) -> Answer:
    return await outcome


def _refuse(_request: Request, error: PkiError) -> Answer:
    return errors.refuse(error)


def retry_after(listener: Listener) -> tuple[tuple[str, str], ...]:
    """The Retry-After header of a busy listener."""
    return (("Retry-After", str(listener.limits.retry_after_seconds)),)


def busy(listener: Listener) -> errors.BadRequest:
    """The refusal of a listener whose handlers are all waiting."""
    return errors.BadRequest(503, LimitHit.RUNNING, "too busy", headers=retry_after(listener))
