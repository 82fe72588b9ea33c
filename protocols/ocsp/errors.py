"""Domain errors and OCSP response statuses, both ways, in one table (RFC 6960 section 2.3)."""

from __future__ import annotations

from pkiserver.foundation.errors import PkiError, Refusal, Rejected, Unavailable
from protocols.ocsp.messages import MalformedRequest, ResponseStatus

_REFUSALS = {
    Refusal.MALFORMED: ResponseStatus.MALFORMED_REQUEST,
    Refusal.LIMIT: ResponseStatus.MALFORMED_REQUEST,
    Refusal.BAD_EXTENSION: ResponseStatus.MALFORMED_REQUEST,
    Refusal.UNKNOWN_AUTHORITY: ResponseStatus.UNAUTHORIZED,
    Refusal.UNKNOWN_CERTIFICATE: ResponseStatus.UNAUTHORIZED,
    Refusal.NOT_AUTHORISED: ResponseStatus.UNAUTHORIZED,
    Refusal.NOT_AUTHENTICATED: ResponseStatus.SIG_REQUIRED,
}
"""Every other refusal is our own fault here: an OCSP client has nothing else to get wrong."""


def status_of(error: BaseException) -> ResponseStatus:
    """The response status that says ``error`` to a client."""
    if isinstance(error, MalformedRequest):
        return ResponseStatus.MALFORMED_REQUEST
    if isinstance(error, Unavailable):
        return ResponseStatus.TRY_LATER
    if isinstance(error, Rejected):
        found = {_REFUSALS.get(reason.code, ResponseStatus.INTERNAL_ERROR) for reason in error.reasons}
        return found.pop() if len(found) == 1 else ResponseStatus.INTERNAL_ERROR
    return ResponseStatus.INTERNAL_ERROR


_ERRORS: dict[ResponseStatus, PkiError] = {
    ResponseStatus.MALFORMED_REQUEST: Rejected.because(Refusal.MALFORMED, "the responder calls the request malformed"),
    ResponseStatus.INTERNAL_ERROR: Unavailable("the responder has an internal error"),
    ResponseStatus.TRY_LATER: Unavailable("the responder asks to try later"),
    ResponseStatus.SIG_REQUIRED: Rejected.because(Refusal.NOT_AUTHENTICATED, "the responder wants a signed request"),
    ResponseStatus.UNAUTHORIZED: Rejected.because(
        Refusal.UNKNOWN_AUTHORITY, "the responder does not serve this issuer"
    ),
}


def error_of(status: ResponseStatus) -> PkiError:
    """The domain error for an answer that another responder gave us; raises :class:`KeyError` for a success."""
    return _ERRORS[status]
