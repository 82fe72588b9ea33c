"""OCSP over HTTP: GET and POST to octets, octets to an answer with headers for caches (RFC 9919 section 7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import attrs
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from pkiserver.authority.status.source import StatusSource
from pkiserver.foundation.bounded import keep
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError
from protocols.ocsp import errors, messages, target
from protocols.ocsp.knownrequests import KnownRequests
from protocols.ocsp.messages import MalformedRequest, OcspRequest, ResponseStatus
from protocols.ocsp.service import OcspService, SignedAnswer
from protocols.web.conditional import PreparedRepresentation, Representation
from protocols.web.encode import pre_encode
from protocols.web.values import Answer, EncodedResponse, Method, Request, Response, Route

_log = Logger(namespace="pkiserver.ocsp")

CONTENT_TYPE = "application/ocsp-response"
REQUEST_TYPE = "application/ocsp-request"
_NO_STORE = (("Cache-Control", "no-cache, no-store"), ("Pragma", "no-cache"))
_SECOND = timedelta(seconds=1)


def _path(instance: object, attribute: attrs.Attribute[str], value: str) -> None:
    del instance
    if not value.startswith("/") or value.endswith("/") or "//" in value:
        raise ValueError(f"{attribute.name} must begin with a slash and not end with one")


@attrs.frozen
class OcspSettings:
    """Where and within which limits this node answers OCSP.

    Attributes:
        path: The URL path of the responder; GET requests follow it after a slash.
        max_body: Octets of a POST; more is refused before it is read.
        max_requests: Certificates in one request; more is malformed.
    """

    path: str = attrs.field(default="/ocsp", validator=_path)
    max_body: int = attrs.field(default=16 * 1024, validator=attrs.validators.in_(range(256, 1024 * 1024)))
    max_requests: int = attrs.field(
        default=16, validator=attrs.validators.in_(range(1, messages.MAX_SINGLE_REQUESTS + 1))
    )


Decode = Callable[[Request], OcspRequest]
PREPARED_ANSWERS = 20_000
"""Answers whose headers are remembered with them."""
PREPARED_TARGET = 1024
"""Longer targets are read each time: together with PREPARED_ANSWERS the bound on memory."""


@attrs.frozen(eq=False)
class _Prepared:
    """An answer with its headers, which say how long it is still good: right for one second."""

    since: datetime
    until: datetime
    representation: PreparedRepresentation


@attrs.frozen(eq=False)
class _Hot:
    """What a target was answered, for as long as the records stand as they did."""

    prepared: _Prepared
    state: object


class OcspEdge:
    """The HTTP side of an :class:`OcspService`."""

    def __init__(self, service: OcspService, clock: Clock) -> None:
        self._service = service
        self._clock = clock
        self._known = KnownRequests()
        self._prepared: dict[SignedAnswer, _Prepared] = {}
        self._hot: dict[str, _Hot] = {}
        self._heads: dict[int, bytes] = {}

    def get(self, request: Request) -> Answer | Awaitable[Answer]:
        """Answer a GET; HEAD comes here too. What was asked in this second, with no change since, is answered again."""
        hot = self._hot.get(request.target)
        if hot is not None:
            prepared = hot.prepared
            if prepared.since <= self._clock.now() < prepared.until and self._service.state() == hot.state:
                return prepared.representation.answer(request.headers)
        return self._answer(request, self._decode_target, cached=True)

    def post(self, request: Request) -> Answer | Awaitable[Answer]:
        """Answer a POST; its answer is not for caches (RFC 9110 section 9.3.3)."""
        return self._answer(request, self._decode_body, cached=False)

    def _decode_target(self, request: Request) -> OcspRequest:
        tail = request.tail if not request.query else f"{request.tail}?{request.query}"
        known = self._known.get(tail)
        if known is not None:
            return known
        problem = MalformedRequest("the target holds no request")
        for octets in target.candidates(tail):
            try:
                decoded = self._service.decode(octets)
            except MalformedRequest as error:
                problem = error
            else:
                self._known.remember(tail, decoded)
                return decoded
        raise problem

    def _decode_body(self, request: Request) -> OcspRequest:
        if request.headers.media_type() != REQUEST_TYPE and "content-type" in request.headers:
            raise MalformedRequest("the content type is not that of an OCSP request")
        body = request.body
        known = self._known.get(body)
        if known is None:
            known = self._service.decode(body)
            self._known.remember(body, known)
        return known

    def _answer(self, request: Request, decode: Decode, *, cached: bool) -> Answer | Awaitable[Answer]:
        try:
            # Known before the record is read: a change while the answer is made must be seen.
            state = self._service.state() if cached else None
            answer = self._service.answer(decode(request))
            if isinstance(answer, SignedAnswer):
                return self._show(request, answer, cached=cached, state=state)
        except Exception as error:  # noqa: BLE001 - told below
            return self._failed(request, error)
        return self._wait(request, answer, cached=cached)

    async def _wait(self, request: Request, answer: Awaitable[SignedAnswer], *, cached: bool) -> Answer:
        try:
            return self._show(request, await answer, cached=cached)
        except CancelledError:
            raise  # the client has left, or it took too long: the web's own errand
        except Exception as error:  # noqa: BLE001 - told below
            return self._failed(request, error)

    def _show(self, request: Request, answer: SignedAnswer, *, cached: bool, state: object | None = None) -> Answer:
        if cached and answer.cacheable:
            prepared = self._prepare(answer)
            if state is not None and answer.lasting and len(request.target) <= PREPARED_TARGET:
                keep(self._hot, request.target, _Hot(prepared, state), most=PREPARED_ANSWERS)
            return prepared.representation.answer(request.headers)
        length = len(answer.body)
        head = self._heads.get(length)
        if head is None:
            head = pre_encode(Response(200, answer.body, CONTENT_TYPE)).head
            if len(self._heads) < PREPARED_ANSWERS:
                self._heads[length] = head
        return EncodedResponse(200, head, answer.body)

    def _prepare(self, answer: SignedAnswer) -> _Prepared:
        now = self._clock.now()
        prepared = self._prepared.get(answer)
        if prepared is None or not prepared.since <= now < prepared.until:
            # Strictly before nextUpdate, so that a cache never hands out an answer that has just ended.
            fresh = (answer.next_update - now - _SECOND) // _SECOND
            found = Representation(
                body=answer.body,
                content_type=CONTENT_TYPE,
                modified=answer.produced_at,
                expires=answer.next_update,
                cache_control=f"max-age={max(0, fresh)}, public, no-transform, must-revalidate",
                dated=answer.dated,
            )
            second = now.replace(microsecond=0)
            prepared = _Prepared(second, second + _SECOND, PreparedRepresentation(found))
            keep(self._prepared, answer, prepared, most=PREPARED_ANSWERS)
        return prepared

    def _failed(self, request: Request, error: Exception) -> Response:
        if isinstance(error, MalformedRequest | PkiError):
            return self._refuse(request, error)
        # Whatever went wrong here, the client gets OCSP's own error and no traceback.
        failure = Failure(error)  # type: ignore[no-untyped-call]
        _log.failure("OCSP answer failed, request {request_id}", failure, request_id=request.request_id)
        return _error(ResponseStatus.INTERNAL_ERROR)

    def _refuse(self, request: Request, error: MalformedRequest | PkiError) -> Response:
        status = errors.status_of(error)
        _log.info(
            "OCSP request {request_id} from {address}: {status}: {reason}",
            request_id=request.request_id,
            address=request.peer.address,
            status=status.name.lower(),
            reason=str(error),
        )
        return _error(status)


def _error(status: ResponseStatus) -> Response:
    return Response(200, messages.encode_error(status), CONTENT_TYPE, _NO_STORE)


def routes(source: StatusSource, clock: Clock, settings: OcspSettings) -> list[Route]:
    """The routes of one responder URL, which serves every issuer that ``source`` knows."""
    edge = OcspEdge(OcspService(source, clock, max_requests=settings.max_requests), clock)
    post = frozenset({Method.POST})
    return [
        Route("ocsp", settings.path, post, edge.post, max_body=settings.max_body, quiet=True),
        Route("ocsp", f"{settings.path}/", post, edge.post, max_body=settings.max_body, prefix=True, quiet=True),
        Route("ocsp", f"{settings.path}/", frozenset({Method.GET}), edge.get, prefix=True, quiet=True),
    ]
