"""Time-stamping over HTTP (RFC 3161 section 3.4): ``POST /tsa``, ``/tsa/<unit>``, ``/tsa/<unit>/authenticode``."""

from __future__ import annotations

import attrs
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from pkiserver.timestamping.unit import TimestampUnit
from protocols.timestamp import authenticode
from protocols.timestamp.access import AccessControl, Denied
from protocols.timestamp.authenticode import AuthenticodeService
from protocols.timestamp.directory import Active, UnitDirectory
from protocols.timestamp.errors import refused
from protocols.timestamp.messages import QUERY_TYPE, REPLY_TYPE, Failure, Refused, encode_refusal
from protocols.timestamp.service import TimestampService
from protocols.web.values import Method, Request, Response, Route

_NO_STORE = (("Cache-Control", "no-store"),)
MAX_BODY = 16 * 1024
AUTHENTICODE = "authenticode"
"""What follows a unit's path for Microsoft's older form."""


@attrs.frozen
class TimestampEdge:
    """The HTTP side of a :class:`TimestampService`."""

    directory: UnitDirectory
    service: TimestampService
    access: AccessControl
    authenticode: AuthenticodeService
    log: Logger = attrs.field(factory=lambda: Logger(namespace="pkiserver.timestamp"))

    async def post(self, request: Request) -> Response:
        """Answer a TimeStampReq. What is wrong with HTTP is a status of HTTP; all else is a TimeStampResp."""
        name, _, form = request.tail.partition("/")
        active = self.directory.get(name)
        unit = active.unit if active is not None else self.directory.unit(name)
        if unit is None or (form and not (form == AUTHENTICODE and unit.authenticode.enabled)):
            return Response(404, b"there is no such time-stamping unit\n", "text/plain")
        if form:
            return await self._countersign(request, unit, active)
        if "content-type" in request.headers and request.headers.media_type() != QUERY_TYPE:
            return Response(415, f"the request must be of type {QUERY_TYPE}\n".encode(), "text/plain")
        try:
            if self.access.guards(unit):
                await self.access.check(unit, request)
            if active is None:
                raise Refused(Failure.SYSTEM_FAILURE, "this unit cannot sign at the moment")
            return Response(200, await self.service.answer(active, request.body), REPLY_TYPE, _NO_STORE)
        except Denied as denied:
            return denied.response
        except Refused as told:
            return self._refuse(request, active, told)
        except CancelledError:
            raise  # the client has left
        except Exception as error:  # noqa: BLE001 - the client gets RFC 3161's own error, the log the traceback
            self.log.failure("time-stamp failed, request {request_id}", request_id=request.request_id)
            return self._refuse(request, active, refused(error))

    async def _countersign(self, request: Request, unit: TimestampUnit, active: Active | None) -> Response:
        """The older form, which knows no errors but those of HTTP."""
        try:
            await self.access.check(unit, request)
            if active is None:
                return Response(503, b"this unit cannot sign at the moment\n", "text/plain", _NO_STORE)
            answer = await self.authenticode.answer(active, request.body)
            return Response(200, answer, authenticode.CONTENT_TYPE, _NO_STORE)
        except Denied as denied:
            return denied.response
        except Refused as told:
            self._refuse(request, active, told)
            status = 400 if told.failure is Failure.BAD_DATA_FORMAT else 503
            return Response(status, f"{told.text}\n".encode(), "text/plain", _NO_STORE)

    def _refuse(self, request: Request, active: Active | None, told: Refused) -> Response:
        self.log.info(
            "time-stamp request {request_id} from {address} to {unit}: {failure}: {reason}",
            request_id=request.request_id,
            address=request.peer.address,
            unit=active.unit.name if active is not None else request.tail[:64],
            failure=told.failure.name.lower(),
            reason=str(told.__cause__ or told.text),
        )
        return Response(200, encode_refusal(told.failure, told.text), REPLY_TYPE, _NO_STORE)


def routes(directory: UnitDirectory, service: TimestampService, access: AccessControl) -> list[Route]:
    """The routes of every unit, for the plain and the TLS listener alike."""
    edge = TimestampEdge(directory, service, access, AuthenticodeService(service))
    post = frozenset({Method.POST})
    return [
        Route("timestamp", "/tsa", post, edge.post, max_body=MAX_BODY, quiet=True),
        Route("timestamp", "/tsa/", post, edge.post, max_body=MAX_BODY, prefix=True, quiet=True),
    ]
