"""The Klein application: recognises the administrator, asks the role, reads what came, answers in JSON or problems."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

import attrs
from klein import Klein
from klein.resource import KleinResource
from OpenSSL import crypto
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.web.resource import IResource
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from pkiserver.audit import AuditEvent, AuditKind
from pkiserver.foundation.errors import Defect, PkiError, Refusal, Rejected, Unavailable
from pkiserver.registration.administrators import Administrator, Permission
from pkiserver.runtime.engine import Engine
from protocols.management import certifying, challengepage, codec, configuring, registering, seating
from protocols.management.calls import PREFIX, Ask, Call, Nothing, check_path
from protocols.management.lasting import to_the_end
from protocols.management.lately import Lately
from protocols.management.openapi import document
from protocols.management.problems import CONTENT_TYPE, Problem, problem, problem_of
from protocols.web.accesslog import safe_path

_log = Logger(namespace="pkiserver.api")
CALLS: tuple[Call, ...] = (*registering.CALLS, *certifying.CALLS, *seating.CALLS, *configuring.CALLS)
DOCUMENT_PATH = f"{PREFIX}/openapi.json"
_JSON = b"application/json"
WebRequest = Any
"""Twisted Web's request, which has no types to speak of; none of it goes further than this module."""
_HEADERS = (
    (b"Cache-Control", b"no-store"),
    (b"Server", b"pkiserver"),  # nobody's version is told to whoever shows no certificate
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'"),
)


_MOST_DETAIL = 500
"""Characters of a problem's detail in the log: a body may have a hundred faults."""
_PAGE_POLICY = b"default-src 'none'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
_PAGE = next(call for call in registering.CALLS if call.handler is registering.make_challenge)
"""The call that the page makes in a browser's name."""


class Api:
    """The API over an engine; :meth:`resource` is what a Twisted Web site serves."""

    def __init__(self, engine: Engine, calls: Sequence[Call] = CALLS) -> None:
        self._engine = engine
        self._strangers = Lately(engine.clock)
        self._comers = Lately(engine.clock)
        self._document = json.dumps(document(calls), ensure_ascii=False).encode() + b"\n"
        self.app = Klein()
        self.app.url_map.merge_slashes = False  # //me is no path of ours, and nobody is led on from it
        for call in calls:
            self._add(call)
        self.app.route(DOCUMENT_PATH, methods=["GET"], endpoint="openapi")(self._show_document)
        for path in (challengepage.PATH, f"{challengepage.PATH}/"):  # NDES's own links end with a slash
            self.app.route(path, methods=["GET", "POST"], endpoint=f"challengePage {path}")(self._challenge_page)
        self.app.handle_errors(HTTPException)(self._not_routed)

    def resource(self) -> IResource:
        """The resource of the whole API."""
        return _Routed(self.app)

    def _add(self, call: Call) -> None:
        async def serve(request: WebRequest, **path: str) -> bytes:
            return await self._guarded(request, call, path)

        self.app.route(call.route, methods=[call.method], endpoint=call.name)(serve)

    async def _show_document(self, request: WebRequest) -> bytes:
        request_id = secrets.token_hex(8)
        try:
            await self._administrator(request)
        except PkiError as error:
            return _send_problem(request, problem_of(error, request_id), error)
        return _send(request, 200, self._document, _JSON)

    async def _challenge_page(self, request: WebRequest) -> bytes:
        """The page that hands out one-time challenges: HTML, for browsers; its rules are those of the API."""
        request_id = secrets.token_hex(8)
        try:
            return _send_page(request, 200, await self._challenge(request, request_id))
        except CancelledError:
            raise
        except PkiError as error:
            status = problem_of(error, request_id).status
            if isinstance(error, Unavailable):
                request.setHeader(b"Retry-After", str(error.retry_after).encode())
            if isinstance(error, Defect):
                _log.failure("the challenge page failed, request {id}", id=request_id)
            return _send_page(request, status, challengepage.refusal_page(_words(error)))

    async def _challenge(self, request: WebRequest, request_id: str) -> str:
        who = await self._administrator(request)
        posted = request.method == b"POST"
        try:
            if not who.may(Permission.MAKE_CHALLENGES):
                text = f"{', '.join(sorted(who.roles))} does not permit {Permission.MAKE_CHALLENGES}"
                raise Rejected.because(Refusal.NOT_AUTHORISED, text)
            if not posted:
                return challengepage.blank_page(self._engine, who)
            _require_own_page(request)
            return await challengepage.answer_form(self._engine, who, request_id, request.content.read())
        except Rejected as error:
            await self._note_refusal(who, _PAGE, {}, request_id, error)
            raise

    async def _guarded(self, request: WebRequest, call: Call, path: dict[str, str]) -> bytes:
        """One call, with every error as a problem."""
        request_id = secrets.token_hex(8)
        try:
            return await self._serve(request, call, path, request_id)
        except CancelledError:
            raise
        except PkiError as error:
            if isinstance(error, Defect):
                _log.failure("call {call} failed, request {id}", call=call.name, id=request_id)
            return _send_problem(request, problem_of(error, request_id), error)
        except Exception:  # noqa: BLE001 - the outermost frame of a request: a defect must not show itself
            _log.failure("call {call} failed, request {id}", call=call.name, id=request_id)
            return _send_problem(request, problem_of(Defect("unexpected"), request_id))

    async def _serve(self, request: WebRequest, call: Call, path: dict[str, str], request_id: str) -> bytes:
        if call.permission is not Permission.READ_AUDIT:
            return await self._served(request, call, path, request_id, await self._administrator(request))
        # whoever reads the log reads it as it was before they came
        who = await self._recognised(request)
        try:
            return await self._served(request, call, path, request_id, who)
        finally:
            await self._note_comer(request, who)

    async def _served(
        self, request: WebRequest, call: Call, path: dict[str, str], request_id: str, who: Administrator
    ) -> bytes:
        try:
            if call.permission is not None and not who.may(call.permission):
                text = f"{', '.join(sorted(who.roles))} does not permit {call.permission}"
                raise Rejected.because(Refusal.NOT_AUTHORISED, text)
            if call.changes:
                _require_same_site(request)
            check_path(path)
            query, octets = _query(request, call), request.content.read()
            if call.body is not Nothing and not _is_json(request):
                text = "the body must be application/json"
                return _send_problem(request, problem(415, "media-type", text, request_id))
            if call.body is Nothing and octets:
                raise Rejected.because(Refusal.MALFORMED, "this call takes no body")
            body = codec.read(call.body, octets) if call.body is not Nothing else Nothing()
            ask = Ask(self._engine, who, request_id, path, query, body)
            work = call.handler(ask)
            answer = await (to_the_end(work) if call.changes else work)
        except Rejected as error:
            if call.changes or error.has(Refusal.NOT_AUTHORISED):
                await self._note_refusal(who, call, path, request_id, error)
            raise
        text = "{who} {call} {path}: {status} {id}"
        _log.info(text, who=who.name, call=call.name, path=path, status=call.status, id=request_id)
        if call.answer is None:
            return _send(request, call.status, b"", None)
        octets = json.dumps(codec.to_json(answer), ensure_ascii=False).encode() + b"\n"
        return _send(request, call.status, octets, _JSON)

    async def _administrator(self, request: WebRequest) -> Administrator:
        """Who is at the other end, which is audited."""
        who = await self._recognised(request)
        await self._note_comer(request, who)
        return who

    async def _recognised(self, request: WebRequest) -> Administrator:
        """Who is at the other end; a stranger is audited, but not at any rate a stranger likes."""
        der = _shown(request)
        try:
            return await self._engine.administrators.recognise(der)
        except Rejected as error:
            if self._strangers.worth_noting(_address(request)):
                event = AuditEvent(AuditKind.LOGIN, "unknown", "management API", "refused", details=_from(request, der))
                details = (*event.details, ("why", str(error)))
                await self._engine.audit.record(attrs.evolve(event, details=details))
            raise

    async def _note_comer(self, request: WebRequest, who: Administrator) -> None:
        """Audit that somebody came in: once a minute for each certificate and address, whatever they do here."""
        details = _from(request, _shown(request))
        if self._comers.worth_noting(str((who.name, details))):
            event = AuditEvent(AuditKind.LOGIN, who.actor, "management API", details=details)
            await self._engine.audit.record(event)

    async def _note_refusal(
        self, who: Administrator, call: Call, path: dict[str, str], request_id: str, error: Rejected
    ) -> None:
        place = "/".join(path.values())
        event = AuditEvent(
            kind=AuditKind.REFUSAL,
            actor=who.actor,
            object=f"{call.name} {place}".strip(),
            outcome="refused",
            request_id=request_id,
            details=(("why", str(error)), ("via", "api")),
        )
        await self._engine.audit.record(event)

    def _not_routed(self, request: WebRequest, failure: Any) -> bytes:
        error = failure.value
        request_id = secrets.token_hex(8)
        if isinstance(error, MethodNotAllowed):
            request.setHeader(b"Allow", ", ".join(sorted(error.valid_methods or ())).encode())
            return _send_problem(request, problem(405, "method", "this method is not offered here", request_id))
        if isinstance(error, NotFound):
            return _send_problem(request, problem(404, "no-such-path", "there is nothing here", request_id))
        status = error.code if isinstance(error, HTTPException) and error.code else 400
        return _send_problem(request, problem(max(status, 400), "path", "the path is not one of ours", request_id))


class _Routed(KleinResource):
    """The routes. A path that is no text is refused here, where Klein would answer with a page of its own."""

    def render(self, request: WebRequest) -> Any:
        """Called with each request."""
        try:
            unquote_to_bytes(request.path).decode()
        except UnicodeDecodeError:
            return _send_problem(request, problem(400, "path", "the path is no UTF-8 text", secrets.token_hex(8)))
        return super().render(request)


def _shown(request: WebRequest) -> bytes:
    """The certificate (DER) that the other end shows; raises :class:`Rejected` where it shows none."""
    transport = request.transport
    certificate = transport.getPeerCertificate() if hasattr(transport, "getPeerCertificate") else None
    if certificate is None:
        raise Rejected.because(Refusal.NOT_AUTHENTICATED, "show an administrator's client certificate")
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


def _address(request: WebRequest) -> str:
    return str(getattr(request.transport.getPeer(), "host", "local"))


def _from(request: WebRequest, der: bytes) -> tuple[tuple[str, str], ...]:
    """From where somebody came, and with which certificate, as the audit log has it."""
    return (("source", _address(request)), ("fingerprint", hashlib.sha256(der).hexdigest()), ("via", "api"))


def _query(request: WebRequest, call: Call) -> object:
    try:
        query = urlsplit(request.uri.decode("ascii")).query
        arguments = parse_qs(query, keep_blank_values=True, errors="strict")
    except ValueError as error:
        text = "the query is no text in UTF-8 and percent-encoding"
        raise Rejected.because(Refusal.MALFORMED, text) from error
    return codec.read_query(call.query, arguments)


def _is_json(request: WebRequest) -> bool:
    found = (request.getHeader("content-type") or "").partition(";")[0]
    return found.strip().lower() == "application/json"


def _require_same_site(request: WebRequest) -> None:
    """Refuse what a page of another site made an administrator's browser send, certificate and all (CSRF).

    Browsers say so themselves; and with JSON bodies and PUT, PATCH and DELETE they ask first, which nobody answers.
    """
    site = request.getHeader("sec-fetch-site")
    origin = request.getHeader("origin")
    host = request.getHeader("host")
    foreign = site not in {None, "same-origin", "none"} or (origin is not None and origin != f"https://{host}")
    if foreign:
        raise Rejected.because(Refusal.NOT_AUTHORISED, "requests from pages of other sites are refused")


def _require_own_page(request: WebRequest) -> None:
    """Refuse a form that no page of ours sent: forms, unlike JSON, are sent without being asked about first."""
    _require_same_site(request)
    if request.getHeader("origin") is None:
        raise Rejected.because(Refusal.NOT_AUTHORISED, "the form does not say which page it is from (Origin)")
    if (request.getHeader("content-type") or "").partition(";")[0].strip().lower() != challengepage.FORM:
        raise Rejected.because(Refusal.MALFORMED, f"the form is not {challengepage.FORM}")


def _words(error: PkiError) -> list[str]:
    if isinstance(error, Rejected):
        return [one.text for one in error.reasons]
    return [error.shown if isinstance(error, Unavailable) else "internal error"]


def _send_page(request: WebRequest, status: int, page: str) -> bytes:
    octets = _send(request, status, page.encode(), b"text/html; charset=utf-8")
    request.setHeader(b"Content-Security-Policy", _PAGE_POLICY)
    request.setHeader(b"Referrer-Policy", b"same-origin")
    return octets


def _send_problem(request: WebRequest, what: Problem, error: PkiError | None = None) -> bytes:
    _log.warn(
        "{peer} {method} {path}: {status} {id} {detail}",
        peer=_address(request),
        method=request.method.decode("ascii", "replace"),
        path=safe_path(request.path.decode("ascii", "replace")),
        status=what.status,
        id=what.instance.rpartition(":")[2],
        detail=what.detail[:_MOST_DETAIL],
    )
    if isinstance(error, Unavailable):
        request.setHeader(b"Retry-After", str(error.retry_after).encode())
    return _send(request, what.status, what.octets(), CONTENT_TYPE)


def _send(request: WebRequest, status: int, octets: bytes, content_type: bytes | None) -> bytes:
    request.setResponseCode(status, HTTPStatus(status).phrase.encode())
    for name, value in _HEADERS:
        request.setHeader(name, value)
    if content_type is not None:
        request.setHeader(b"Content-Type", content_type)
        request.setHeader(b"Content-Length", str(len(octets)).encode())
    else:
        # Twisted adds one to whatever says none.
        request.defaultContentType = None
    return octets
