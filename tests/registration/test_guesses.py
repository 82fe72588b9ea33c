"""Wrong guesses slow down, per address and per template, over all processes, and those who know are let through."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from sqlalchemy import func, select
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from pkiserver.authority.requests import CodeEvidence, IssuedCertificate, PasswordEvidence
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import PkiError, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration import guesses
from pkiserver.registration.guesses import Guesses
from pkiserver.registration.guesssettings import GuessSettings
from pkiserver.runtime.engine import open_engine
from pkiserver.store.database import Database
from pkiserver.store.migrate import migrate
from pkiserver.store.schema.guesses import wrong_guess
from tests.support import children
from tests.support.clock import FakeClock
from tests.support.engines import engine_with, enrollment, template_text

PASSWORD = '[[evidence]]\nall = ["password"]\n[[evidence]]\nall = ["code"]\n'
GOOD = Secret("a long password")


@attrs.frozen
class Site:
    """A database that several processes share; each call of :meth:`process` is one more."""

    url: str
    clock: FakeClock
    opened: list[Database]

    async def process(self, settings: GuessSettings | None = None, clock: Clock | None = None) -> Guesses:
        self.opened.append(await Database.open(self.url))
        return Guesses(settings or GuessSettings(), self.opened[-1], clock or self.clock)

    async def rows(self, kind: int) -> int:
        count = select(func.count()).select_from(wrong_guess).where(wrong_guess.c.kind == kind)
        return int(await self.opened[0].read(lambda connection: connection.execute(count).scalar_one()))


@asynccontextmanager
async def site_at(url: str) -> AsyncIterator[Site]:
    migrate(url)
    made = Site(url, FakeClock(), [])
    try:
        yield made
    finally:
        for one in made.opened:
            await one.close()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'db'}"


async def wait(counted: Guesses, template: str, address: str) -> int:
    """Seconds that the address is told to wait; 0 where it may go on."""
    try:
        await counted.check(template, address)
    except Unavailable as error:
        return error.retry_after
    return 0


async def test_an_addresses_pause_doubles_up_to_the_longest_and_is_forgiven(sqlite_url: str) -> None:
    async with site_at(sqlite_url) as site:
        counted = await site.process(GuessSettings(free=3, longest=timedelta(minutes=1)))
        pauses = []
        for _ in range(11):
            site.clock.advance(timedelta(seconds=await wait(counted, "t", "192.0.2.1")))
            await counted.wrong("t", "192.0.2.1")
            pauses.append(await wait(counted, "t", "192.0.2.1"))
        assert pauses[:3] == [0, 0, 0]
        assert pauses[3:8] == [1, 2, 4, 8, 16]
        assert max(pauses) == 60
        assert await wait(counted, "other", "192.0.2.1") > 0
        assert await wait(counted, "t", "192.0.2.2") == 0
        site.clock.advance(timedelta(minutes=12))
        for _ in range(3):
            await counted.wrong("t", "192.0.2.1")
        assert await wait(counted, "t", "192.0.2.1") == 0


async def test_being_right_does_not_buy_more_guesses(sqlite_url: str) -> None:
    async with site_at(sqlite_url) as site:
        counted = await site.process(GuessSettings(free=2))
        for _ in range(3):
            counted.right("192.0.2.1")
            await counted.wrong("t", "192.0.2.1")
        assert await wait(counted, "t", "192.0.2.1") > 0


async def test_many_addresses_are_slowed_by_template_but_not_those_that_were_right_lately(sqlite_url: str) -> None:
    async with site_at(sqlite_url) as site:
        one, other = await site.process(GuessSettings(template_rate=60)), await site.process()
        one.right("198.51.100.7")
        await one.flush()
        allowed = 0
        for number in range(1000):
            address = f"10.0.{number // 250}.{number % 250}"
            counted = (one, other)[number % 2]
            if not await wait(counted, "t", address):
                await counted.wrong("t", address)
                allowed += 1
            site.clock.advance(timedelta(milliseconds=10))
        assert 60 <= allowed <= 75  # 60 at once, and one for each of the ten seconds: for both processes together
        await one.wrong("t", "10.8.8.8")
        for counted in (one, other):
            assert await wait(counted, "t", "10.9.9.9") > 0
            assert await wait(counted, "t", "198.51.100.7") == 0
            assert await wait(counted, "other", "10.9.9.9") == 0
        site.clock.advance(timedelta(minutes=2))
        assert await wait(one, "t", "10.9.9.9") == 0


async def test_a_site_of_ipv6_is_one_address_and_proxies_can_be_exempt(sqlite_url: str) -> None:
    async with site_at(sqlite_url) as site:
        counted = await site.process(GuessSettings(free=1, exempt=("192.0.2.0/24",)))
        for number in range(4):
            await counted.wrong("t", f"2001:db8::{number}")
            await counted.wrong("t", "192.0.2.9")
            await counted.wrong("t", "::ffff:203.0.113.1")
        assert await wait(counted, "t", "2001:db8::ffff%eth0") > 0
        assert await wait(counted, "t", "203.0.113.1") > 0
        assert await wait(counted, "t", "2001:db8:0:1::1") == 0
        assert await wait(counted, "t", "192.0.2.9") == 0
        assert await site.rows(1) == 2


async def test_row_34_what_is_remembered_is_bounded(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "MOST_ROWS", 100)
    monkeypatch.setattr(guesses, "MOST_KNOWN", 50)
    monkeypatch.setattr(guesses, "_CLEAN_AFTER", 16)
    async with site_at(sqlite_url) as site:
        counted = await site.process(GuessSettings(template_rate=100_000))
        for number in range(300):
            for again in range(3 if number == 5 else 1):
                await counted.wrong(f"t{number % 10}", f"2001:db8:{number:x}::{again}")
            counted.right(f"10.2.{number // 250}.{number % 250}")
        assert await site.rows(1) <= 100 + 16
        assert await wait(counted, "t1", "2001:db8:5::1") == 0
        for _ in range(3):
            await counted.wrong("t1", "2001:db8:5::1")
        assert await wait(counted, "t1", "2001:db8:5::1") == 1, "who was wrong most often is forgotten last"
        await counted.flush()
        assert await site.rows(3) == 50
        site.clock.advance(timedelta(days=2))
        for _ in range(16):
            await counted.wrong("t", "192.0.2.1")
        assert (await site.rows(1), await site.rows(2), await site.rows(3)) == (1, 1, 0)


async def test_a_right_guess_writes_nothing_of_its_own(sqlite_url: str) -> None:
    async with site_at(sqlite_url) as site:
        counted = await site.process()
        [database] = site.opened
        before = database.counts().writes
        for number in range(200):
            await counted.check("t", f"10.0.0.{number}")
            counted.right(f"10.0.0.{number}")
        assert database.counts().writes == before
        await counted.flush()
        await counted.flush()
        assert database.counts().writes == before + 1
        assert await site.rows(3) == 200


async def test_nothing_is_looked_at_while_wrong_guesses_cannot_be_counted(sqlite_url: str, tmp_path: Path) -> None:
    async with site_at(sqlite_url) as site:
        counted = await site.process(GuessSettings(free=1))
        raw = sqlite3.connect(tmp_path / "db", isolation_level=None)
        raw.execute("CREATE TRIGGER full BEFORE INSERT ON wrong_guess BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        await counted.check("t", "192.0.2.1")
        for _ in range(3):
            with pytest.raises(PkiError):
                await counted.wrong("t", "192.0.2.1")
            with pytest.raises(PkiError):
                await counted.check("t", "192.0.2.2")
        raw.execute("DROP TRIGGER full")
        raw.close()
        assert await wait(counted, "t", "192.0.2.2") == 0
        assert await wait(counted, "t", "192.0.2.1") == 2, "all three were counted as soon as that could be done"
        await site.opened[0].close()
        with pytest.raises(Unavailable):
            await counted.check("t", "192.0.2.2")


async def test_a_clock_that_was_wrong_shuts_nobody_out(sqlite_url: str) -> None:
    async with site_at(sqlite_url) as site:
        counted = await site.process(GuessSettings(free=1, template_rate=1))
        site.clock.step(timedelta(days=365))
        for _ in range(9):
            await counted.wrong("t", "192.0.2.1")
        assert await wait(counted, "t", "192.0.2.1") > 0
        site.clock.step(timedelta(days=-365))
        assert await wait(counted, "t", "192.0.2.1") == 0
        await counted.wrong("t", "192.0.2.1")
        assert await wait(counted, "t", "192.0.2.1") > 0


async def test_processes_count_together_and_a_restart_forgets_nothing(empty_url: str) -> None:
    """Two processes guess side by side, as fast as they can; each guess is one of the site's."""
    migrate(empty_url)

    def guess(first: int) -> int:
        return int(children.finish(children.start("tests.registration.guessing_child", empty_url, first, 150)))

    allowed = await gatherResults([deferToThread(guess, 0), deferToThread(guess, 1000)])
    assert 100 <= sum(allowed) <= 110, "a minute's worth at once, and what runs side by side"
    assert await deferToThread(guess, 2000) == 0, "a new process knows of them"


async def test_row_20_passwords_and_codes_cannot_be_tried_at_speed(tmp_path: Path, empty_url: str) -> None:
    clock = FakeClock()
    texts = {"open": template_text("open", PASSWORD)}
    async with (
        engine_with(tmp_path, texts, clock=clock, url=empty_url) as engine,
        open_engine(engine.settings, worker="1", clock=clock) as second,
    ):
        await engine.accounts.create("alice", GOOD, by="tester")
        for number in range(6):
            wrong = PasswordEvidence(("alice", "nobody")[number % 2], Secret(f"a wrong guess {number}"))
            with pytest.raises(Rejected, match=r"^the name or the password is wrong"):
                await (engine, second)[number % 2].enroll(enrollment("open", wrong))
        _, code = await engine.codes.create(
            template="open", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
        )
        right = enrollment("open", PasswordEvidence("alice", GOOD))
        for worker in (engine, second):
            for request in (right, enrollment("open", CodeEvidence(code))):
                with pytest.raises(Unavailable, match="too many wrong guesses") as told:
                    await worker.enroll(request)
                assert told.value.retry_after == 1
        clock.advance(timedelta(seconds=1))
        assert isinstance(await second.enroll(right), IssuedCertificate)


async def test_row_20_guessers_everywhere_do_not_shut_out_who_was_right_lately(tmp_path: Path) -> None:
    texts = {"open": template_text("open", PASSWORD)}
    async with engine_with(tmp_path, texts, clock=FakeClock()) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        right = enrollment("open", PasswordEvidence("alice", GOOD))
        assert isinstance(await engine.enroll(attrs.evolve(right, source="192.0.2.1")), IssuedCertificate)
        wrong = enrollment("open", CodeEvidence(Secret("E" + "0" * 26)))
        for number in range(engine.settings.guesses.template_rate):
            with pytest.raises(Rejected):
                await engine.enroll(attrs.evolve(wrong, source=f"198.51.100.{number}"))
        with pytest.raises(Unavailable, match="too many wrong guesses"):
            await engine.enroll(attrs.evolve(right, source="192.0.2.2"))
        again = enrollment("open", PasswordEvidence("alice", GOOD), name="device-2")
        assert isinstance(await engine.enroll(attrs.evolve(again, source="192.0.2.1")), IssuedCertificate)
