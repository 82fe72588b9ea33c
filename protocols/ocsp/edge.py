"""OCSP over HTTP: GET and POST to octets, octets to an answer with headers for caches (RFC 9919 section 7)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import attrs
from twisted.logger import Logger

from pkiserver.authority.status.source import StatusSource
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError
from protocols.ocsp import errors, messages, target
from protocols.ocsp.messages import MalformedRequest, OcspRequest, ResponseStatus
from protocols.ocsp.service import OcspService, SignedAnswer
from protocols.web.conditional import Representation, respond
from protocols.web.values import Method, Request, Response, Route

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


class OcspEdge:
    """The HTTP side of an :class:`OcspService`."""

    _log = Logger()

    def __init__(self, service: OcspService, clock: Clock) -> None:
        self._service = service
        self._clock = clock

    async def get(self, request: Request) -> Response:
        """Answer a GET; HEAD comes here too."""
        return await self._answer(request, self._decode_target, cached=True)

    async def post(self, request: Request) -> Response:
        """Answer a POST; its answer is not for caches (RFC 9110 section 9.3.3)."""
        return await self._answer(request, self._decode_body, cached=False)

    def _decode_target(self, request: Request) -> OcspRequest:
        problem = MalformedRequest("the target holds no request")
        tail = request.tail if not request.query else f"{request.tail}?{request.query}"
        for octets in target.candidates(tail):
            try:
                return self._service.decode(octets)
            except MalformedRequest as error:
                problem = error
        raise problem

    def _decode_body(self, request: Request) -> OcspRequest:
        if "content-type" in request.headers and request.headers.media_type() != REQUEST_TYPE:
            raise MalformedRequest("the content type is not that of an OCSP request")
        return self._service.decode(request.body)

    async def _answer(self, request: Request, decode: Decode, *, cached: bool) -> Response:
        try:
            answer = await self._service.answer(decode(request))
        except (MalformedRequest, PkiError) as error:
            return self._refuse(request, error)
        except Exception:  # noqa: BLE001 - whatever goes wrong here, the client gets OCSP's own error and no traceback
            self._log.failure("OCSP answer failed, request {request_id}", request_id=request.request_id)
            return _error(ResponseStatus.INTERNAL_ERROR)
        if not cached or not answer.cacheable:
            return Response(200, answer.body, CONTENT_TYPE)
        return self._cached(request, answer)

    def _cached(self, request: Request, answer: SignedAnswer) -> Response:
        # Strictly before nextUpdate, so that a cache never hands out an answer that has just ended.
        fresh = (answer.next_update - self._clock.now() - _SECOND) // _SECOND
        found = Representation(
            body=answer.body,
            content_type=CONTENT_TYPE,
            modified=answer.this_update,
            expires=answer.next_update,
            cache_control=f"max-age={max(0, fresh)}, public, no-transform, must-revalidate",
        )
        return respond(request.headers, found)

    def _refuse(self, request: Request, error: MalformedRequest | PkiError) -> Response:
        status = errors.status_of(error)
        self._log.info(
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
