"""Errors as problem details (RFC 9457): a status, and every reason."""

from __future__ import annotations

import json

import attrs

from pkiserver.foundation.errors import PkiError, Refusal, Rejected, Unavailable
from protocols.management.codec import to_json

CONTENT_TYPE = b"application/problem+json"
STATUS: dict[Refusal, int] = {
    Refusal.MALFORMED: 400,
    Refusal.NOT_AUTHENTICATED: 403,
    Refusal.NOT_AUTHORISED: 403,
    Refusal.UNKNOWN_TEMPLATE: 404,
    Refusal.UNKNOWN_AUTHORITY: 404,
    Refusal.UNKNOWN_CERTIFICATE: 404,
    Refusal.UNKNOWN_REQUEST: 404,
    Refusal.CONFLICT: 409,
    Refusal.DUPLICATE: 409,
    Refusal.REVOKED: 409,
    Refusal.UNSUPPORTED: 422,
}
"""Everything else is 422: understood, and wrong. A TLS client certificate has no 401, which would need a challenge."""
_PRECEDENCE = (403, 404, 400, 409, 422)
_TITLES = {
    400: "Malformed request",
    403: "Not permitted",
    404: "Not found",
    405: "Method not allowed",
    409: "Conflict",
    413: "Body too large",
    415: "Unsupported media type",
    422: "Refused",
    500: "Internal error",
    503: "Not available now",
}
TYPE = "urn:pkiserver:problem:"


@attrs.frozen
class ProblemReason:
    """One reason; ``code`` is for programs, ``text`` for people."""

    code: str
    text: str


@attrs.frozen
class Problem:
    """What went wrong (RFC 9457); ``instance`` names the request in the server's log."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    reasons: tuple[ProblemReason, ...] = ()

    def octets(self) -> bytes:
        """As it is sent."""
        return json.dumps(to_json(self), ensure_ascii=False).encode() + b"\n"


def problem(status: int, name: str, detail: str, request_id: str, reasons: tuple[ProblemReason, ...] = ()) -> Problem:
    """A problem of a kind of this server."""
    title = _TITLES.get(status, "Error")
    return Problem(f"{TYPE}{name}", title, status, detail, f"urn:pkiserver:request:{request_id}", reasons)


def problem_of(error: PkiError, request_id: str) -> Problem:
    """A domain error as a problem. A defect says nothing of itself: the log does."""
    if isinstance(error, Rejected):
        statuses = {STATUS.get(reason.code, 422) for reason in error.reasons}
        status = next(one for one in _PRECEDENCE if one in statuses)
        first = next(reason for reason in error.reasons if STATUS.get(reason.code, 422) == status)
        reasons = tuple(ProblemReason(reason.code.value, reason.text) for reason in error.reasons)
        return problem(status, first.code.value, str(error), request_id, reasons)
    if isinstance(error, Unavailable):
        return problem(503, "unavailable", error.text, request_id)
    return problem(500, "internal-error", "the server failed; its log has this request's number", request_id)
