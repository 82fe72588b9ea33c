"""Clients that leave while a token signs for them say nothing about the token."""

from __future__ import annotations

import time
from typing import Any

import pytest
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred

from pkiserver.keys.executor import Executor

reactor: Any = _reactor


async def test_those_who_leave_do_not_make_a_token_unavailable() -> None:
    executor = Executor("t", threads=1, deadline=5.0, reactor=reactor)
    try:
        leaving = [Deferred.fromCoroutine(executor.run(lambda: time.sleep(0.02))) for _ in range(10)]
        for one in leaving:
            one.cancel()
        assert await executor.run(lambda: "signed") == "signed"
        for one in leaving:
            with pytest.raises(CancelledError):
                await one
    finally:
        await executor.close()
