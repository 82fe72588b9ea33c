"""SCEP over HTTP (RFC 8894 section 4): paths, operations, media types. Plain HTTP will do: messages are protected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.logger import Logger

from pkiserver.authority.templates.model import Template
from pkiserver.foundation.errors import PkiError, Refusal, Rejected
from protocols.cms import oids, signing
from protocols.cms.ber import malformed
from protocols.cms.signing import SignedContent
from protocols.scep import messages
from protocols.scep.caps import ca_certificates, capabilities
from protocols.scep.exchange import Origin
from protocols.scep.messages import Operation
from protocols.scep.metrics import ScepMetrics
from protocols.scep.ports import ScepEngine, ScepSettings
from protocols.scep.requesting import PROTOCOL
from protocols.scep.service import ScepService
from protocols.web.errors import plain, refuse
from protocols.web.values import Method, Request, Response, Route

_log = Logger(namespace="pkiserver.scep")

PREFIX = "/scep/"
FIXED_PATHS = ("/cgi-bin/pkiclient.exe", "/certsrv/mscep/mscep.dll")
"""Where clients go that cannot be told otherwise: the RFC's path, and that of Microsoft's NDES."""
_TEXT = "text/plain; charset=utf-8"
_NO_STORE = ("Cache-Control", "no-store")
_STATUS = {Refusal.UNKNOWN_TEMPLATE: 404, Refusal.UNKNOWN_AUTHORITY: 404, Refusal.CONFIGURATION: 500}


class ScepEdge:
    """The HTTP side of SCEP."""

    def __init__(self, engine: ScepEngine, settings: ScepSettings, metrics: ScepMetrics) -> None:
        self._engine = engine
        self._settings = settings
        self._service = ScepService(engine, settings, metrics)
        self._operations: dict[Operation, Callable[[Template, Request, bytes], Awaitable[Response]]] = {
            Operation.GET_CA_CERT: self._get_ca_cert,
            Operation.GET_CA_CAPS: self._get_ca_caps,
            Operation.GET_NEXT_CA_CERT: self._get_next_ca_cert,
            Operation.PKI_OPERATION: self._pki_operation,
        }

    async def under_prefix(self, request: Request) -> Response:
        """``/scep/<template>`` or ``/scep/<ca>/<template>``, and whatever a client appends."""
        return await self._answer(request, self._template(request.tail))

    async def fixed(self, request: Request) -> Response:
        """A path that names no template."""
        return await self._answer(request, self._usable(self._settings.default_template))

    def _template(self, tail: str) -> Template:
        """The template that a path names: a template's name first counts, else an authority's and a template's."""
        first, *others = [part for part in tail.split("/") if part] or [self._settings.default_template]
        if others and self._engine.has_authority(first):
            try:
                template = self._usable(others[0])
            except Rejected:
                return self._usable(first)
            if template.issuer == first:
                return template
        return self._usable(first)

    def _usable(self, name: str) -> Template:
        template = self._engine.template(name) if name else None
        if template is None or not template.serves(PROTOCOL):
            raise Rejected.because(Refusal.UNKNOWN_TEMPLATE, "SCEP has no such template here")
        return template

    async def _answer(self, request: Request, template: Template) -> Response:
        query = messages.parse_query(request.query)
        operation = query.operation
        message = b""
        if request.method == "POST":
            # Clients that forget to say so can mean nothing else (section 4.3).
            operation = operation or Operation.PKI_OPERATION
            message = request.body
        elif operation is Operation.PKI_OPERATION:
            message = messages.decode_message(query.message or b"")
        if operation is None:
            raise malformed("operation must be GetCACert, GetCACaps, GetNextCACert or PKIOperation")
        return await self._operations[operation](template, request, message)

    async def _get_ca_cert(self, template: Template, _request: Request, _message: bytes) -> Response:
        answerer = await self._engine.first(template.issuer)
        found = ca_certificates(template, answerer)
        if len(found) == 1:
            return Response(200, found[0], messages.CA_MEDIA_TYPE)
        return Response(200, messages.ordered_certificates(found), messages.CHAIN_MEDIA_TYPE)

    async def _get_ca_caps(self, template: Template, _request: Request, _message: bytes) -> Response:
        lines = capabilities(template, has_next=self._engine.has_next(template.issuer))
        # strongSwan 5.9.8 believes no keyword unless an empty line follows; to others it means nothing.
        return Response(200, "".join(f"{line}\n" for line in (*lines, "")).encode(), "text/plain")

    async def _get_next_ca_cert(self, template: Template, _request: Request, _message: bytes) -> Response:
        coming = await self._engine.next_authority(template.issuer)
        if coming is None:
            return Response(404, b"there is no other CA certificate to come\n", _TEXT)
        content = SignedContent(oids.DATA, messages.ordered_certificates(coming.certificates))
        own = (coming.profile.certificate.public_bytes(messages.DER),)
        body = await signing.sign(content, coming.profile, coming.signer, certificates=own)
        return Response(200, body, messages.NEXT_CA_MEDIA_TYPE)

    async def _pki_operation(self, template: Template, request: Request, message: bytes) -> Response:
        origin = Origin(request.peer.address, request.request_id)
        body = await self._service.operate(template, message, origin)
        return Response(200, body, messages.MESSAGE_MEDIA_TYPE, (_NO_STORE,))

    def refuse(self, request: Request, error: PkiError) -> Response:
        """What there can be no CertRep for, as plain HTTP; the log says why, as it does for a CertRep."""
        response = _refusal(error)
        _log.info(
            "SCEP {request_id} from {address}: {status}: {reason}",
            request_id=request.request_id,
            address=request.peer.address,
            status=response.status,
            reason=str(error),
        )
        return response


def _refusal(error: PkiError) -> Response:
    if isinstance(error, Rejected):
        status = max(_STATUS.get(reason.code, 400) for reason in error.reasons)
        return plain(status, str(error))
    return refuse(error)


def routes(engine: ScepEngine, settings: ScepSettings, metrics: ScepMetrics) -> list[Route]:
    """The routes of SCEP, for plain HTTP and TLS listeners alike."""
    edge = ScepEdge(engine, settings, metrics)
    both = frozenset({Method.GET, Method.POST})
    limit, refuse = settings.max_body, edge.refuse
    found = [Route("scep", PREFIX, both, edge.under_prefix, prefix=True, max_body=limit, refuse=refuse)]
    if settings.default_template:
        found += [
            Route("scep", path, both, edge.fixed, prefix=True, max_body=limit, refuse=refuse) for path in FIXED_PATHS
        ]
    return found
