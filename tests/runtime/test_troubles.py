"""What cannot be used is in the log, once for each change, and not only in what readiness answers."""

from __future__ import annotations

from twisted.logger import LogLevel, capturedLogs, formatEvent

from pkiserver.runtime.services.troubles import Trouble, TroubleLog


async def test_what_cannot_be_used_is_told_once_and_so_is_that_it_can_be_again() -> None:
    now: list[Trouble] = []
    told = TroubleLog(lambda: now)

    async def lines() -> list[tuple[LogLevel, str]]:
        with capturedLogs() as captured:
            await told.run_due()
        return [(event["log_level"], formatEvent(event) or "") for event in captured]

    assert await lines() == []
    now += [("key:softhsm", "the PIN is wrong"), ("key:one", "the PIN is wrong"), ("ca:issuing", "its key is away")]
    assert await lines() == [
        (LogLevel.error, "cannot be used: ca:issuing: its key is away"),
        (LogLevel.error, "cannot be used: key:one, key:softhsm: the PIN is wrong"),
    ]
    assert await lines() == []
    now[2] = ("ca:issuing", "its certificate has expired")
    assert await lines() == [(LogLevel.error, "cannot be used: ca:issuing: its certificate has expired")]
    del now[1:]
    assert await lines() == [(LogLevel.info, "can be used again: ca:issuing, key:one")]


async def test_a_token_with_many_keys_is_one_line() -> None:
    told = TroubleLog(lambda: [(f"key:{number:02}", "the token is away") for number in range(40)])
    with capturedLogs() as captured:
        await told.run_due()
    (line,) = [formatEvent(event) for event in captured]
    assert line == "cannot be used: key:00, key:01, key:02, key:03, key:04 and 35 more: the token is away"
