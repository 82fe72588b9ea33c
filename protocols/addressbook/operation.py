"""An operation under way on a connection."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from protocols.addressbook.errors import ResultCode

NEVER = float("inf")


class Operation:
    """Since when it runs, by when it must end, and how to end it; ``code`` is the result where it is cancelled."""

    __slots__ = ("abandoned", "code", "deadline", "deferred", "since", "tag")

    def __init__(self, tag: int, since: float) -> None:
        self.tag = tag
        self.since = since
        self.deadline = NEVER
        self.deferred: Deferred[Any] | None = None
        self.abandoned = False
        self.code = ResultCode.TIME_LIMIT_EXCEEDED
