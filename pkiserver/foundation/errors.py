"""The three kinds of failure, whatever the room: the client's, the moment's, ours.

Only a protocol's ``errors.py`` turns them into wire codes; nothing else looks at a :class:`Refusal`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs


class Refusal(enum.StrEnum):
    """Why a request was refused, as finely as any protocol can tell it to its client."""

    MALFORMED = "malformed"
    BAD_PROOF = "bad-proof-of-possession"
    BAD_KEY = "bad-key"
    BAD_ALGORITHM = "bad-algorithm"
    BAD_SUBJECT = "bad-subject"
    BAD_NAME = "bad-alternative-name"
    BAD_EXTENSION = "bad-extension"
    BAD_VALIDITY = "bad-validity"
    NOT_AUTHENTICATED = "not-authenticated"
    NOT_AUTHORISED = "not-authorised"
    UNKNOWN_TEMPLATE = "unknown-template"
    UNKNOWN_AUTHORITY = "unknown-authority"
    UNKNOWN_CERTIFICATE = "unknown-certificate"
    UNKNOWN_REQUEST = "unknown-request"
    REVOKED = "certificate-revoked"
    OUTSIDE_WINDOW = "outside-renewal-window"
    DUPLICATE = "duplicate"
    LINT = "lint"
    LIMIT = "limit"
    UNSUPPORTED = "unsupported"
    CONFIGURATION = "configuration"
    CONFLICT = "conflict"


@attrs.frozen
class Reason:
    """One reason for a refusal; ``text`` is one line that may be shown to the client."""

    code: Refusal
    text: str


class PkiError(Exception):
    """Base of every error that may cross a room's door."""


class Rejected(PkiError):
    """The request is at fault. Carries every reason found, not only the first; all are safe to show."""

    def __init__(self, reasons: Iterable[Reason]) -> None:
        self.reasons = tuple(reasons)
        if not self.reasons:
            raise ValueError("a refusal needs a reason")
        super().__init__("; ".join(reason.text for reason in self.reasons))

    @classmethod
    def because(cls, code: Refusal, text: str) -> Rejected:
        """A refusal for a single reason."""
        return cls((Reason(code, text),))

    def has(self, code: Refusal) -> bool:
        """Whether ``code`` is among the reasons."""
        return any(reason.code is code for reason in self.reasons)


class Unavailable(PkiError):
    """The request may be fine; something it needs is not there now.

    Args:
        text: Why, for the administrator: it may name hosts, paths and keys.
        retry_after: When to come again, in seconds.
        public: Whether clients may read the text as well.
    """

    def __init__(self, text: str, *, retry_after: int = 30, public: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.retry_after = retry_after
        self._public = public

    @property
    def shown(self) -> str:
        """What a client is told."""
        return self.text if self._public else "not available now: try again later"


class Defect(PkiError):
    """Our fault: logged whole, shown to a client as a generic failure only."""
