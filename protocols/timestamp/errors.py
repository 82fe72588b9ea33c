"""Domain errors as failInfo and text, in one table (RFC 3161 section 2.4.2)."""

from __future__ import annotations

from pkiserver.foundation.errors import PkiError, Refusal, Rejected
from pkiserver.timestamping.clockwatch import TimeNotAvailable
from protocols.timestamp.messages import Failure, Refused

_REFUSALS = {
    Refusal.BAD_ALGORITHM: Failure.BAD_ALG,
    Refusal.MALFORMED: Failure.BAD_DATA_FORMAT,
    Refusal.LIMIT: Failure.BAD_DATA_FORMAT,
    Refusal.BAD_EXTENSION: Failure.UNACCEPTED_EXTENSION,
    Refusal.UNSUPPORTED: Failure.BAD_REQUEST,
    Refusal.NOT_AUTHORISED: Failure.BAD_REQUEST,
    Refusal.NOT_AUTHENTICATED: Failure.BAD_REQUEST,
}
"""Every other refusal is our own fault here."""


def refused(error: BaseException) -> Refused:
    """What a client is told of ``error``."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, TimeNotAvailable):
        return Refused(Failure.TIME_NOT_AVAILABLE, f"the time is not available: {error.trouble}")
    if isinstance(error, Rejected):
        found = {_REFUSALS.get(reason.code, Failure.SYSTEM_FAILURE) for reason in error.reasons}
        if len(found) == 1 and Failure.SYSTEM_FAILURE not in found:
            return Refused(found.pop(), str(error))
    if isinstance(error, PkiError):
        return Refused(Failure.SYSTEM_FAILURE, "the request cannot be handled at the moment, try again later")
    return Refused(Failure.SYSTEM_FAILURE, "internal error")
