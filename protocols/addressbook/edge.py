"""LDAP on the wire: a thin Twisted protocol around :class:`~protocols.addressbook.machine.Session`.

It cuts messages, counts octets and seconds, and never holds more than one message's worth of what it has not worked on:
while operations are under way beyond their number, while a bind or a TLS start is, or while the client does not take
its answers, the connection is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from OpenSSL import crypto
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLServerConnectionCreator, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from protocols.addressbook import messages
from protocols.addressbook.ber import message_length
from protocols.addressbook.controls import Pages
from protocols.addressbook.errors import Disconnect, LdapError, LimitHit, ResultCode
from protocols.addressbook.machine import Admission, Session
from protocols.addressbook.messages import AbandonRequest, Envelope, SearchRequest, UnbindRequest, read_operation
from protocols.addressbook.operation import NEVER, Operation
from protocols.addressbook.service import Conversation, Service, error_of
from protocols.web.wire import Wire, is_tls

_log = Logger(namespace="pkiserver.ldap")


@implementer(IPushProducer, IHandshakeListener)
class LdapConnection(Protocol):
    """One connection.

    Args:
        service: The operations.
        address: Where the client is.
        caller_key: By what it is counted.
        tls: For StartTLS; None where there is none, or TLS from the start.
        forget: Called once, when the connection is gone.
    """

    def __init__(
        self,
        service: Service,
        address: str,
        caller_key: str,
        tls: IOpenSSLServerConnectionCreator | None,
        forget: Callable[[LdapConnection], None],
    ) -> None:
        self.address = address
        self.caller_key = caller_key
        self._service = service
        self._tls = tls
        self._forget = forget
        self._buffer = bytearray()
        self._operations: dict[int, Operation] = {}
        self._session = Session(service.caller(address, caller_key), secure=False)
        self._conversation = Conversation(self._session, Pages(), self._cancelled)
        self._reading = True
        self._full = False
        self._closing = False
        self._handshaking = False
        now = service.clock.monotonic()
        self._read_deadline = now + service.limits.idle_seconds
        self._write_deadline = NEVER
        self._end = now + service.limits.lifetime_seconds
        self._mid_message = False
        self._consuming = False
        self._followed = False

    @property
    def _wire(self) -> Wire:
        return cast("Wire", self.transport)

    def connectionMade(self) -> None:  # noqa: N802
        """Twisted: the connection is open; over TLS its handshake is still to come."""
        if is_tls(self._wire):
            self._handshaking = True
            self._read_deadline = self._service.clock.monotonic() + self._service.limits.message_seconds
        self._wire.registerProducer(self, True)

    def handshakeCompleted(self) -> None:  # noqa: N802
        """Twisted: TLS stands, from the start or after StartTLS."""
        self._handshaking = False
        session = self._session
        session.secure = True
        session.starting_tls = False
        handle = cast("Any", self.transport).getHandle()
        shown = handle.get_peer_certificate()
        session.certificate = None if shown is None else crypto.dump_certificate(crypto.FILETYPE_ASN1, shown)
        self._set_idle()

    # Back-pressure

    def pauseProducing(self) -> None:  # noqa: N802
        """Twisted: the client does not take its answers."""
        self._full = True
        self._write_deadline = self._service.clock.monotonic() + self._service.limits.write_stall_seconds
        self._stop_reading()

    def resumeProducing(self) -> None:  # noqa: N802
        """Twisted: it does again."""
        self._full = False
        self._write_deadline = NEVER
        self._go_on()

    def stopProducing(self) -> None:  # noqa: N802
        """Twisted: the connection is lost."""

    def _stop_reading(self) -> None:
        if self._reading and not self._handshaking:
            self._reading = self._mid_message = False
            self._read_deadline = NEVER  # the silence is ours
            self._wire.pauseProducing()
            if self._session.busy >= self._service.limits.operations:
                self._service.metrics.limit(LimitHit.OPERATIONS)

    def _may_read(self) -> bool:
        session = self._session
        return not (self._full or self._closing or session.blocked or session.busy >= self._service.limits.operations)

    def _go_on(self) -> None:
        """Work on what is there, then read on."""
        if self._consuming:
            return  # an operation that ended at once: the loop goes on by itself
        if self._may_read() and self._buffer:
            self._consume()
        if self._may_read() and not self._reading:
            self._reading = True
            self._wire.resumeProducing()
            self._set_idle()

    def _set_idle(self) -> None:
        """Silence counts while nothing is under way; a message that has begun has its own time."""
        if not self._reading:
            return
        limits = self._service.limits
        now = self._service.clock.monotonic()
        if self._buffer:
            if not self._mid_message:
                self._mid_message = True
                self._read_deadline = now + limits.message_seconds
            return
        self._mid_message = False
        self._read_deadline = NEVER if self._operations else now + limits.idle_seconds

    # Reading

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Twisted: octets came."""
        if self._closing:
            return
        if self._session.starting_tls and not self._handshaking:
            self._leave(Disconnect("octets between StartTLS and TLS", LimitHit.STARTTLS_INJECTION))
            return
        self._buffer += data
        self._consume()
        if not self._closing:
            self._set_idle()

    def _consume(self) -> None:
        """Cut off and work on whole messages, as long as they may be taken."""
        buffer = self._buffer
        position = 0
        self._consuming = True
        try:
            while self._may_read():
                length = message_length(buffer, position, len(buffer) - position, self._most())
                if length is None or position + length > len(buffer):
                    break
                message = bytes(buffer[position : position + length])
                position += length
                self._mid_message = False
                self._followed = position < len(buffer)
                self._take(message)
        except Disconnect as order:
            position = len(buffer)
            self._leave(order)
        finally:
            self._consuming = False
        if self._closing:
            buffer.clear()
        elif position:
            del buffer[:position]
        if not self._may_read() and not self._closing:  # who closes must still hear the client go: TLS waits for that
            self._stop_reading()

    def _most(self) -> int:
        limits = self._service.limits
        return limits.message_bytes if self._session.caller.name is None else limits.bound_message_bytes

    def _take(self, data: bytes) -> None:
        service = self._service
        envelope = messages.open_message(data)
        tag = envelope.tag
        admission = self._session.admit(envelope.message_id, tag)
        since = service.clock.monotonic()
        try:
            request = read_operation(envelope, service.limits.filter)
            if isinstance(request, UnbindRequest):
                self._close()
                return
            if isinstance(request, AbandonRequest):
                self._abandon(request.message_id)
                return
            if tag not in messages.RESPONSES:
                raise Disconnect("an unknown operation", LimitHit.MALFORMED)
            if admission is Admission.WORK_ALONE:
                for number in self._session.others(envelope.message_id):
                    self._abandon(number)
            answer = service.perform(request, envelope, self._conversation)
        except LdapError as error:
            self._fail(envelope, error, since)
            return
        if isinstance(answer, bytes):
            self._answer(envelope, answer, since)
        else:
            self._wait(envelope, request, answer, since)

    def _wait(self, envelope: Envelope, request: messages.Request, answer: Any, since: float) -> None:
        operation = Operation(envelope.tag, since)
        if isinstance(request, SearchRequest):
            longest = self._service.limits.operation_seconds
            operation.deadline = since + min(longest, request.time_limit or longest)
        self._operations[envelope.message_id] = operation
        operation.deferred = Deferred.fromCoroutine(answer)
        operation.deferred.addCallbacks(
            self._finished, self._failed, callbackArgs=(envelope, operation), errbackArgs=(envelope, operation)
        )
        operation.deferred.addErrback(self._defect)

    # Answering

    def _finished(self, answer: bytes, envelope: Envelope, operation: Operation) -> None:
        self._operations.pop(envelope.message_id, None)
        if operation.abandoned or self._closing:
            self._session.done(envelope.message_id)
        else:
            self._answer(envelope, answer, operation.since)
        self._after()

    def _failed(self, failure: Failure, envelope: Envelope, operation: Operation) -> None:
        self._operations.pop(envelope.message_id, None)
        if operation.abandoned or self._closing:
            self._session.done(envelope.message_id)
        elif isinstance(failure.value, CancelledError):
            self._fail(envelope, LdapError(operation.code), operation.since)
        else:
            error = error_of(failure.value)
            if error is None or error.code is ResultCode.OTHER:
                _log.failure("operation failed for {peer}", failure=failure, peer=self.address)
                error = LdapError(ResultCode.OTHER, "internal error")
            self._fail(envelope, error, operation.since)
        self._after()

    def _after(self) -> None:
        if not self._closing:
            self._go_on()
            self._set_idle()

    def _defect(self, failure: Failure) -> None:
        _log.failure("connection of {peer} failed", failure=failure, peer=self.address)
        self._wire.abortConnection()

    def _answer(self, envelope: Envelope, answer: bytes, since: float) -> None:
        service = self._service
        self._session.done(envelope.message_id)
        if self._session.starting_tls and self._followed:
            # What came in the clear must not count as having come over TLS: not a single octet of it is looked at.
            self._session.starting_tls = False
            raise Disconnect("octets between StartTLS and TLS", LimitHit.STARTTLS_INJECTION)
        service.metrics.answered(envelope.tag, ResultCode.SUCCESS, service.clock.monotonic() - since)
        self._wire.write(answer)
        if self._session.starting_tls:
            self._start_tls()

    def _fail(self, envelope: Envelope, error: LdapError, since: float) -> None:
        service = self._service
        self._session.done(envelope.message_id)
        service.metrics.answered(envelope.tag, error.code, service.clock.monotonic() - since)
        if error.limit is not None:
            service.metrics.limit(error.limit)
            _log.warn("{peer} {limit}", peer=self.address, limit=error.limit.value)
        tag = messages.RESPONSES.get(envelope.tag)
        if tag is not None:
            self._wire.write(messages.message(envelope.message_id, messages.result(tag, error.code, error.text)))

    def _start_tls(self) -> None:
        if self._tls is None:
            raise Disconnect("there is no TLS here", LimitHit.MALFORMED)
        self._handshaking = True
        self._read_deadline = self._service.clock.monotonic() + self._service.limits.message_seconds
        if not self._reading:
            self._reading = True
            self._wire.resumeProducing()
        self._wire.unregisterProducer()
        cast("Any", self.transport).startTLS(self._tls)
        self._wire.registerProducer(self, True)

    def _abandon(self, number: int) -> None:
        operation = self._operations.get(number)
        if operation is not None and self._session.may_abandon(number):
            operation.abandoned = True
            self._session.done(number)
            if operation.deferred is not None:
                operation.deferred.cancel()

    def _cancelled(self, number: int) -> None:
        """RFC 3909: the operation is answered with canceled, then the cancel with success."""
        operation = self._operations.get(number)
        if operation is None or operation.deferred is None:
            raise LdapError(ResultCode.TOO_LATE)
        operation.code = ResultCode.CANCELED
        operation.deferred.cancel()

    # Ending

    def _leave(self, order: Disconnect) -> None:
        self._service.metrics.limit(order.limit)
        _log.warn("{peer} disconnected: {limit}: {why}", peer=self.address, limit=order.limit.value, why=order.text)
        if not self._handshaking and not self._session.starting_tls:
            self._wire.write(messages.notice_of_disconnection(order.code, order.text))
        self._close()

    def _close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._cancel_all()
        self._end = self._service.clock.monotonic() + self._service.limits.write_stall_seconds
        self._wire.unregisterProducer()
        self._wire.loseConnection()

    def _cancel_all(self) -> None:
        for number, operation in tuple(self._operations.items()):
            operation.abandoned = True
            self._session.done(number)
            if operation.deferred is not None:
                operation.deferred.cancel()

    def leave(self) -> None:
        """The listener drains: say so and go, once nothing is under way."""
        if not self._operations and not self._closing:
            if not self._handshaking:
                self._wire.write(messages.notice_of_disconnection(ResultCode.UNAVAILABLE, "the server stops"))
            self._close()

    def abort(self) -> None:
        """Cut the connection now."""
        self._wire.abortConnection()

    def sweep(self, now: float) -> None:
        """Act on deadlines that have passed."""
        if self._closing:
            if now >= self._end:
                self.abort()
            return
        if now >= self._write_deadline:
            self._cut(LimitHit.WRITE_STALL)
        elif now >= self._read_deadline:
            self._too_late()
        elif now >= self._end and not self._operations and not self._handshaking:
            self._service.metrics.limit(LimitHit.LIFETIME)
            self.leave()
        else:
            for operation in tuple(self._operations.values()):
                if now >= operation.deadline and operation.deferred is not None:
                    operation.deadline = NEVER
                    operation.deferred.cancel()

    def _too_late(self) -> None:
        """Nothing came, or not enough of it."""
        if self._handshaking:
            self._cut(LimitHit.HANDSHAKE)
        elif self._mid_message:
            self._cut(LimitHit.MESSAGE_TIME)
        else:
            self._service.metrics.limit(LimitHit.IDLE)
            self._wire.write(messages.notice_of_disconnection(ResultCode.UNAVAILABLE, "idle"))
            self._close()

    def _cut(self, limit: LimitHit) -> None:
        self._service.metrics.limit(limit)
        _log.warn("{peer} cut: {limit}", peer=self.address, limit=limit.value)
        self._closing = True
        self.abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002, N802
        """Twisted: the connection is gone."""
        self._closing = True
        self._buffer.clear()
        self._cancel_all()
        self._forget(self)
