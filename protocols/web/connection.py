"""One HTTP connection: reads requests, has them answered, keeps the answers in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import cast

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from pkiserver.foundation.errors import Defect
from protocols.web import encode
from protocols.web.errors import BadRequest, LimitHit
from protocols.web.exchange import Exchange
from protocols.web.listener import Listener
from protocols.web.metrics import NO_ROUTE
from protocols.web.outbox import Outbox
from protocols.web.peer import peer_of
from protocols.web.reader import RequestReader
from protocols.web.router import Found, NotAllowed, no_route
from protocols.web.values import EncodedResponse, Head, Peer, Request, Response, Route
from protocols.web.wire import Wire, close_below, is_tls, send_at_once

_NEVER = float("inf")
_CLOSE = b"Connection: close\r\n"
_KEEP_ALIVE = b"Connection: keep-alive\r\n"


@implementer(IPushProducer, IHalfCloseableProtocol)
class HttpConnection(Protocol):
    """Made by :class:`protocols.web.factory.HttpServerFactory`, one for each accepted connection."""

    def __init__(self, listener: Listener, forget: Callable[[HttpConnection], None], address: str) -> None:
        self._listener = listener
        self._limits = listener.limits
        self._now = listener.clock.monotonic
        self._forget = forget
        self.address = address
        """Text for the log, and by which the factory counts."""
        self._reader = RequestReader(listener.limits, self._admit, listener.known_heads)
        self._queue: deque[Exchange] = deque()
        self._backlog = b""
        self._consuming = False
        self._timed = False
        self._reading = True
        self._closing = False
        self._read_closed = False
        self._parting = False
        self._continue_due = False
        self._answered = 0
        self._found: Found | NotAllowed | None = None
        self._peer: Peer | None = None
        self._read_deadline = self._close_deadline = _NEVER
        self._wire: Wire
        self._outbox: Outbox

    # Twisted's side

    def connectionMade(self) -> None:  # noqa: N802
        """Start the clock: the first request is due, and with TLS the handshake before it."""
        self._wire = cast("Wire", self.transport)
        self._outbox = Outbox(self._wire, self._limits, self._listener.clock, self._listener.turn)
        send_at_once(self._wire)
        self._wire.registerProducer(self, True)
        self._read_deadline = self._now() + self._limits.request_seconds

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Octets from the client."""
        if self._backlog:
            # Reading is paused; what was under way already is bounded by what the transport reads at once.
            self._backlog += data
        elif not self._closing:
            self._consume(data)

    def readConnectionLost(self) -> None:  # noqa: N802
        """The client sent its FIN: it is taken to have left, as by nginx; what is answered already is still sent."""
        self._read_closed = True
        self._cancel()
        if self._closing and self._close_deadline < _NEVER:
            self._lose()
        else:
            self._closing = True
            self._end(linger=False)

    def writeConnectionLost(self) -> None:  # noqa: N802
        """Our own half-close went out."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """The connection is gone, whatever the reason: nobody waits for the answers any more."""
        del reason
        self._closing = True
        self._backlog = b""
        self._close_deadline = self._read_deadline = _NEVER
        self._cancel()
        self._outbox.forget()
        self._forget(self)

    def pauseProducing(self) -> None:  # noqa: N802
        """The client does not take its answers as fast as they are made."""
        self._outbox.full()

    def resumeProducing(self) -> None:  # noqa: N802
        """The client has taken what was written."""
        self._outbox.drained()
        self._go_on()

    def stopProducing(self) -> None:  # noqa: N802
        """The transport is gone; connectionLost follows."""

    # Reading

    def _consume(self, data: bytes) -> None:
        reader = self._reader
        self._consuming = True
        while data and not self._closing:
            if self._outbox.blocked or len(self._queue) >= self._limits.pipelining_depth:
                self._backlog = data
                self._pause_reading()
                break
            if (known := reader.known(data)) is not None:
                head = known.head
                self._answer(head, b"", self._listener.router.find(head.method, head.path), keep_alive=known.keep_alive)
                break
            try:
                data = reader.feed(data)
            except BadRequest as refusal:
                self._refuse(refusal)
                break
            if reader.complete:
                self._dispatch()
                continue
            if not self._timed and reader.started:
                self._timed = True
                self._read_deadline = self._now() + self._limits.request_seconds
            if reader.head is not None:
                self._expect(body_follows=bool(data))
        self._consuming = False
        self._set_idle()

    def _admit(self, head: Head) -> int:
        """Octets of body that the request may have; called when its head is complete."""
        self._continue_due = head.expects_continue and head.has_body
        self._found = found = self._listener.router.find(head.method, head.path)
        if isinstance(found, Found):
            return found.route.max_body
        if head.has_body:
            raise no_route(found)
        return 0

    def _expect(self, *, body_follows: bool) -> None:
        """Say 100 Continue when the client waits for it and earlier answers are out (RFC 9110 section 10.1.1)."""
        if not self._continue_due:
            return
        if not body_follows and (self._queue or self._outbox.blocked):
            self._read_deadline = _NEVER  # it is our turn, not the client's
            return
        self._continue_due = False
        if self._read_deadline == _NEVER:
            self._read_deadline = self._now() + self._limits.request_seconds
        if not body_follows:
            self._outbox.interim(encode.CONTINUE)

    def _pause_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._read_deadline = _NEVER
            self._wire.pauseProducing()

    def _resume_reading(self) -> None:
        if not self._reading and not self._read_closed:
            self._reading = True
            if self._reader.started:
                self._read_deadline = self._now() + self._limits.request_seconds
            self._wire.resumeProducing()

    def _set_idle(self) -> None:
        if self._timed or self._closing or not self._reading:
            return
        # While a handler works or an answer is being taken, the silence is not the client's.
        busy = self._queue or self._outbox.blocked
        self._read_deadline = _NEVER if busy else self._now() + self._limits.idle_seconds

    # Answering

    def _dispatch(self) -> None:
        reader = self._reader
        head, body = reader.take()
        if reader.dropped_trailers:
            self._listener.metrics.trailers_dropped += reader.dropped_trailers
            reader.dropped_trailers = 0
        self._timed = False
        self._answer(head, body, self._found, keep_alive=reader.keep_alive)

    def _answer(self, head: Head, body: bytes, found: Found | NotAllowed | None, *, keep_alive: bool) -> None:
        listener = self._listener
        exchange = Exchange(head.method, head.path, listener.ids.next(), self._now())
        self._answered += 1
        keep = keep_alive and self._answered < self._limits.requests_per_connection
        self._closing = exchange.close = not keep or listener.draining
        exchange.keep_alive_1_0 = head.http_1_0
        if not isinstance(found, Found):
            exchange.refuse(no_route(found))
            self._ready(exchange)
            return
        if self._peer is None:
            self._peer = peer_of(self._wire)
        peer, request_id = self._peer, exchange.request_id
        request = Request(
            head.method, head.target, head.path, head.query, found.tail, head.headers, body, peer, request_id
        )
        waiting = exchange.call(found.route, request, listener)
        if waiting is not None:
            exchange.waiting = waiting
            exchange.deadline = exchange.since + self._limits.handler_seconds
            listener.started_waiting(found.route)
            self._queue.append(exchange)
            waiting.addBoth(self._settled, exchange, found.route)
        else:
            self._ready(exchange)

    def _settled(self, _result: object, exchange: Exchange, route: Route) -> None:
        exchange.waiting = None
        self._listener.stopped_waiting(route)
        self._go_on()

    def _refuse(self, refusal: BadRequest) -> None:
        """Answer what cannot be read any further, after everything that was asked before it."""
        head = self._reader.head
        exchange = Exchange(self._reader.method, head.path if head else "-", self._listener.ids.next(), self._now())
        exchange.refuse(refusal)
        self._closing = exchange.close = exchange.linger = True
        self._ready(exchange)

    def _ready(self, exchange: Exchange) -> None:
        if self._queue or self._outbox.blocked:
            self._queue.append(exchange)
        else:
            self._send(exchange)

    def _go_on(self) -> None:
        """Send what is ready and in order; then read on."""
        outbox = self._outbox
        queue = self._queue
        while queue and queue[0].answer is not None and not outbox.blocked:
            self._send(queue.popleft())
        if self._closing or self._consuming:
            if outbox.ending:
                self._end(linger=outbox.linger)
            return
        if self._continue_due and self._reader.head is not None:
            self._expect(body_follows=bool(self._backlog))
        if outbox.blocked or len(queue) >= self._limits.pipelining_depth:
            return
        data, self._backlog = self._backlog, b""
        if data:
            self._consume(data)
        if not self._backlog:
            self._resume_reading()
            self._set_idle()

    def _send(self, exchange: Exchange) -> None:
        answer = exchange.answer
        assert answer is not None
        listener = self._listener
        now = self._now()
        if listener.draining and not self._queue and not self._reader.started:
            self._closing = exchange.close = True
        if not isinstance(answer, EncodedResponse):
            answer = self._encoded(exchange, answer)
        head, body = encode.finish(
            answer,
            date=listener.date.at(now),
            request_id=exchange.request_id,
            persistence=_CLOSE if exchange.close else _KEEP_ALIVE if exchange.keep_alive_1_0 else b"",
            head_only=exchange.method == "HEAD",
        )
        # Counted first: whoever has read an answer finds it in the metrics.
        route = exchange.route
        seconds = now - exchange.since
        listener.metrics.answered(NO_ROUTE if route is None else route.name, answer.status, seconds, len(body))
        if exchange.limit is not None:
            listener.metrics.limit(exchange.limit)
        if listener.log.wants(route, answer.status):
            self._log(exchange, answer.status, len(body), seconds)
        self._outbox.write(head, body)
        if exchange.close:
            self._end(linger=exchange.linger)

    def _encoded(self, exchange: Exchange, answer: Response) -> EncodedResponse:
        try:
            return encode.pre_encode(answer)
        except Defect:
            return encode.pre_encode(exchange.unfit(self._listener, self.address))

    def _log(self, exchange: Exchange, status: int, sent: int, seconds: float) -> None:
        self._listener.log.answered(
            route=exchange.route,
            method=exchange.method,
            path=exchange.path,
            status=status,
            sent=sent,
            seconds=seconds,
            peer=self.address,
            request_id=exchange.request_id,
            limit=exchange.limit,
            reason=exchange.reason,
        )

    # Ending

    def _end(self, *, linger: bool) -> None:
        """Close when everything written has been taken, so that the last answer arrives."""
        self._backlog = b""
        self._read_deadline = _NEVER
        self._outbox.flush()
        if self._outbox.blocked:
            self._outbox.end_later(linger=linger)
            return
        self._outbox.ending = False
        half_close = getattr(self._wire, "loseWriteConnection", None)
        if linger and half_close is not None and not is_tls(self._wire):
            # Closing with octets unread would reset the connection, and the client might never see the answer.
            self._close_deadline = self._now() + self._limits.linger_seconds
            self._resume_reading()
            half_close()
        else:
            self._parting = is_tls(self._wire)
            limit = self._limits.linger_seconds if self._parting else self._limits.write_stall_seconds
            self._close_deadline = self._now() + limit
            self._lose()

    def _lose(self) -> None:
        self._wire.unregisterProducer()
        self._wire.loseConnection()

    def _cancel(self) -> None:
        """Stop handlers whose answers nobody will read; drop answers that stand behind them."""
        while self._queue:
            exchange = self._queue.popleft()
            exchange.abandoned = True
            if exchange.waiting is not None:
                self._listener.metrics.cancelled += 1
                exchange.waiting.cancel()

    def abort(self) -> None:
        """Cut the connection now."""
        self._wire.abortConnection()

    def leave(self) -> None:
        """The listener drains: close at once when nothing is under way, else after the last answer."""
        if not self._queue and not self._reader.started and not self._closing:
            self._closing = True
            self._end(linger=False)

    def sweep(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        if now >= self._close_deadline:
            self._finish_closing(now)
        elif now >= self._outbox.deadline:
            self._cut(LimitHit.WRITE_STALL)
        elif self._queue:
            self._sweep_handlers(now)
        if now >= self._read_deadline and not self._closing:
            if self._reader.started:
                self._refuse(BadRequest(408, LimitHit.REQUEST_TIME, "the request took too long to arrive"))
            else:
                self._listener.metrics.limit(LimitHit.IDLE_TIME)
                self._closing = True
                self._end(linger=False)

    def _finish_closing(self, now: float) -> None:
        if not self._parting:
            self.abort()
            return
        # Many clients notice our close_notify only when they want to ask again: it is not waited for theirs (RFC 8446
        # section 6.1). What the kernel has not sent yet still goes out.
        self._parting = False
        self._close_deadline = now + self._limits.write_stall_seconds
        close_below(self._wire)

    def _sweep_handlers(self, now: float) -> None:
        for exchange in tuple(self._queue):
            if now >= exchange.deadline and exchange.waiting is not None:
                exchange.deadline = _NEVER
                exchange.limit = LimitHit.HANDLER_TIME
                exchange.reason = "the handler took too long"
                exchange.waiting.cancel()

    def _cut(self, limit: LimitHit) -> None:
        self._listener.metrics.limit(limit)
        self._listener.log.cut(peer=self.address, limit=limit)
        self.abort()
