"""Broken constraints that a caller can meet in good faith, told as refusals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import IntegrityError

from pkiserver.foundation.errors import Refusal, Rejected


@contextmanager
def conflicts_as(text: str) -> Iterator[None]:
    """Tell a broken constraint as :class:`Rejected` with :data:`Refusal.CONFLICT` and ``text``."""
    try:
        yield
    except IntegrityError as error:
        raise Rejected.because(Refusal.CONFLICT, text) from error
