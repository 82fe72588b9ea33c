"""Wrong guesses slow down, per address and per template, and those who know the secret are let through."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pkiserver.authority.requests import CodeEvidence, IssuedCertificate, PasswordEvidence
from pkiserver.foundation.errors import Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration import guesses
from pkiserver.registration.guesses import Guesses, GuessSettings
from tests.support.clock import FakeClock
from tests.support.engines import engine_with, enrollment, template_text

PASSWORD = '[[evidence]]\nall = ["password"]\n[[evidence]]\nall = ["code"]\n'
GOOD = Secret("a long password")


def wait(counted: Guesses, template: str, address: str) -> int:
    """Seconds that the address is told to wait; 0 where it may go on."""
    try:
        counted.check(template, address)
    except Unavailable as error:
        return error.retry_after
    return 0


def test_an_addresses_pause_doubles_up_to_the_longest_and_is_forgiven() -> None:
    clock = FakeClock()
    counted = Guesses(GuessSettings(free=3, longest=timedelta(minutes=1)), clock)
    pauses = []
    for _ in range(11):
        clock.advance(timedelta(seconds=wait(counted, "t", "192.0.2.1")))
        counted.wrong("t", "192.0.2.1")
        pauses.append(wait(counted, "t", "192.0.2.1"))
    assert pauses[:3] == [0, 0, 0]
    assert pauses[3:8] == [1, 2, 4, 8, 16]
    assert max(pauses) <= 60
    assert wait(counted, "other", "192.0.2.1") > 0
    assert wait(counted, "t", "192.0.2.2") == 0
    clock.advance(timedelta(minutes=12))
    for _ in range(3):
        counted.wrong("t", "192.0.2.1")
    assert wait(counted, "t", "192.0.2.1") == 0


def test_being_right_does_not_buy_more_guesses() -> None:
    counted = Guesses(GuessSettings(free=2), FakeClock())
    for _ in range(3):
        counted.right("192.0.2.1")
        counted.wrong("t", "192.0.2.1")
    assert wait(counted, "t", "192.0.2.1") > 0


def test_many_addresses_are_slowed_by_template_but_not_those_that_were_right_lately() -> None:
    clock = FakeClock()
    counted = Guesses(GuessSettings(template_rate=60), clock)
    counted.right("198.51.100.7")
    allowed = 0
    for number in range(1000):
        address = f"10.0.{number // 250}.{number % 250}"
        if not wait(counted, "t", address):
            counted.wrong("t", address)
            allowed += 1
        clock.advance(timedelta(milliseconds=10))
    assert 60 <= allowed <= 75  # 60 at once, and one for each of the ten seconds
    assert wait(counted, "t", "10.9.9.9") > 0
    assert wait(counted, "t", "198.51.100.7") == 0
    assert wait(counted, "other", "10.9.9.9") == 0
    clock.advance(timedelta(minutes=2))
    assert wait(counted, "t", "10.9.9.9") == 0


def test_a_site_of_ipv6_is_one_address_and_proxies_can_be_exempt() -> None:
    counted = Guesses(GuessSettings(free=1, exempt=("192.0.2.0/24",)), FakeClock())
    for number in range(4):
        counted.wrong("t", f"2001:db8::{number}")
        counted.wrong("t", "192.0.2.9")
    assert wait(counted, "t", "2001:db8::ffff") > 0
    assert wait(counted, "t", "2001:db8:0:1::1") == 0
    assert wait(counted, "t", "192.0.2.9") == 0


def test_row_34_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "MOST_ADDRESSES", 100)
    counted = Guesses(GuessSettings(template_rate=100_000), FakeClock())
    for number in range(1000):
        counted.wrong(f"t{number % 10}", f"10.1.{number // 250}.{number % 250}")
    assert len(counted._addresses) == 100


async def test_row_20_passwords_and_codes_cannot_be_tried_at_speed(tmp_path: Path) -> None:
    clock = FakeClock()
    async with engine_with(tmp_path, {"open": template_text("open", PASSWORD)}, clock=clock) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        for number in range(6):
            wrong = PasswordEvidence(("alice", "nobody")[number % 2], Secret(f"a wrong guess {number}"))
            with pytest.raises(Rejected, match=r"^the name or the password is wrong"):
                await engine.enroll(enrollment("open", wrong))
        _, code = await engine.codes.create(
            template="open", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
        )
        right = enrollment("open", PasswordEvidence("alice", GOOD))
        for request in (right, enrollment("open", CodeEvidence(code))):
            with pytest.raises(Unavailable, match="too many wrong guesses") as told:
                await engine.enroll(request)
            assert told.value.retry_after == 1
        clock.advance(timedelta(seconds=1))
        assert isinstance(await engine.enroll(right), IssuedCertificate)
