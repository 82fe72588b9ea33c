"""Refusals as failInfo (RFC 8894 section 3.2.1.4)."""

from __future__ import annotations

from pkiserver.foundation.errors import Refusal, Rejected
from protocols.scep.messages import FailInfo

FAIL_INFO: dict[Refusal, FailInfo] = {
    Refusal.BAD_ALGORITHM: FailInfo.BAD_ALG,
    Refusal.UNKNOWN_CERTIFICATE: FailInfo.BAD_CERT_ID,
    Refusal.UNKNOWN_REQUEST: FailInfo.BAD_CERT_ID,
}
"""Every other refusal is badRequest, as the RFC has nothing finer."""

UNREADABLE = "the message cannot be read: it is not encrypted for this server, or not what its messageType says"
"""The one text for everything that can go wrong between the envelope and its content.

The envelope is not authenticated: whoever has seen one may put blocks of it together anew and sign the result with a
key of their own. What they were told of the plaintext, a word of it or that it has a certain form, would open it.
"""


class BadMessage(Rejected):
    """The integrity of a message: its signature, or what is in its envelope (badMessageCheck).

    ``inside`` is for the log alone: what was wrong with what came out of an envelope.
    """

    inside = ""

    @classmethod
    def saying(cls, text: str, code: Refusal = Refusal.BAD_PROOF) -> BadMessage:
        """With one reason."""
        return cls(Rejected.because(code, text).reasons)


def unreadable(inside: str) -> BadMessage:
    """The uniform failure of everything that depends on a secret (docs/protocols/cms.md)."""
    error = BadMessage.saying(UNREADABLE, Refusal.MALFORMED)
    error.inside = inside
    return error


def fail_info(error: Rejected) -> FailInfo:
    """The failInfo for a refusal."""
    if isinstance(error, BadMessage):
        return FailInfo.BAD_MESSAGE_CHECK
    found = {FAIL_INFO.get(reason.code, FailInfo.BAD_REQUEST) for reason in error.reasons}
    return found.pop() if len(found) == 1 else FailInfo.BAD_REQUEST
