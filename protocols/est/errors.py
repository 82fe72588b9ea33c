"""Refusals as HTTP answers (RFC 7030 section 4.2.3): a status, and every reason as a line of plain text."""

from __future__ import annotations

from pkiserver.foundation.errors import PkiError, Reason, Refusal, Rejected
from protocols.web.errors import plain, refuse
from protocols.web.values import Response

STATUS: dict[Refusal, int] = {
    Refusal.MALFORMED: 400,
    Refusal.BAD_PROOF: 400,
    Refusal.BAD_KEY: 400,
    Refusal.BAD_ALGORITHM: 400,
    Refusal.BAD_SUBJECT: 400,
    Refusal.BAD_NAME: 400,
    Refusal.BAD_EXTENSION: 400,
    Refusal.BAD_VALIDITY: 400,
    Refusal.LINT: 400,
    Refusal.LIMIT: 400,
    Refusal.NOT_AUTHENTICATED: 401,
    Refusal.NOT_AUTHORISED: 403,
    Refusal.UNKNOWN_CERTIFICATE: 403,
    Refusal.REVOKED: 403,
    Refusal.OUTSIDE_WINDOW: 403,
    Refusal.UNKNOWN_TEMPLATE: 404,
    Refusal.UNKNOWN_AUTHORITY: 404,
    Refusal.UNKNOWN_REQUEST: 404,
    Refusal.DUPLICATE: 409,
    Refusal.CONFLICT: 409,
    Refusal.UNSUPPORTED: 501,
    Refusal.CONFIGURATION: 500,
}
"""Every refusal has its status; of several, the one that stands first in :data:`_PRECEDENCE` decides."""

_PRECEDENCE = (404, 401, 403, 500, 501, 409, 400)
"""Whom we do not know is told that first; a client's mistakes count only when nothing weightier stands against it."""


class WrongMediaType(Rejected):
    """The body is not what the operation takes."""

    def __init__(self, text: str) -> None:
        super().__init__([Reason(Refusal.MALFORMED, text)])


def response_of(error: PkiError, *, realm: str | None) -> Response:
    """The answer for a domain error.

    Args:
        error: what was raised.
        realm: the realm to ask HTTP Basic credentials for; None where credentials would not help, then 401 becomes 403.
    """
    if isinstance(error, WrongMediaType):
        return plain(415, str(error))
    if isinstance(error, Rejected):
        status = min((STATUS[reason.code] for reason in error.reasons), key=_PRECEDENCE.index)
        text = "\n".join(dict.fromkeys(reason.text for reason in error.reasons))
        if status != 401:
            return plain(status, text)
        if realm is None:
            return plain(403, text)
        return plain(401, text, headers=(("WWW-Authenticate", f'Basic realm="{realm}", charset="UTF-8"'),))
    return refuse(error)
