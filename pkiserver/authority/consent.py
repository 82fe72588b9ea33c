"""Others' agreement to a deed: it is used up in the transaction of the deed, or the deed is not done."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from sqlalchemy import Connection


def _nothing(_connection: Connection) -> None:
    """Nobody had to agree."""


@attrs.frozen
class Consent:
    """What a deed does first in its own transaction, so that no end of the process comes between the two.

    Attributes:
        spend: Uses the agreement up; raises :class:`pkiserver.foundation.errors.Rejected` where it does not hold (any
            more), and nothing is done then.
        via: What was agreed on, for the deed's audit event: ``operation 7``.
    """

    spend: Callable[[Connection], object] = attrs.field(default=_nothing, repr=False)
    via: str | None = None

    @property
    def details(self) -> tuple[tuple[str, str], ...]:
        """Of the deed's audit event."""
        return () if self.via is None else (("via", self.via),)


UNASKED = Consent()
"""Nobody has to agree."""
