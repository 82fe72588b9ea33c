"""When the time may be told: a clock that is moved, NTP servers that lie, a chrony that is away."""

from __future__ import annotations

import contextlib
import math
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.protocol import DatagramProtocol

from pkiserver.foundation.clock import SystemClock
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.tomlfile import ConfigurationError, load
from pkiserver.timestamping import ntp
from pkiserver.timestamping.chrony import ChronySource, read_tracking
from pkiserver.timestamping.clockwatch import ClockWatch, Reading, SystemSource, TimeNotAvailable, Trouble
from pkiserver.timestamping.ntp import BadAnswer, NtpSource, Sample, agree, read_answer
from pkiserver.timestamping.timesettings import TimeSettings
from tests.support.clock import FakeClock

reactor: Any = _reactor
SETTINGS = TimeSettings()


@attrs.define
class FakeSource:
    """Says what it is told to say."""

    reading: Reading | None = attrs.field(factory=lambda: Reading(0.0, 0.01))
    name: str = "fake"

    async def read(self) -> Reading:
        if self.reading is None:
            raise Unavailable("nobody answers")
        return self.reading


def trouble(watch: ClockWatch, accuracy: float = 1.0) -> Trouble | None:
    found = watch.trouble(accuracy)
    return None if found is None else found.trouble


async def test_without_a_source_there_is_no_time() -> None:
    watch = ClockWatch((), SETTINGS, FakeClock())
    await watch.run_due()
    assert trouble(watch) is Trouble.NO_SOURCE


async def test_time_is_told_only_after_the_first_answer() -> None:
    clock, source = FakeClock(), FakeSource()
    watch = ClockWatch((source,), SETTINGS, clock)
    assert trouble(watch) is Trouble.UNKNOWN
    await watch.run_due()
    assert watch.stamp(1.0) == clock.now()


async def test_a_verdict_expires_and_time_comes_back_by_itself() -> None:
    clock, source = FakeClock(), FakeSource()
    watch = ClockWatch((source,), SETTINGS, clock)
    await watch.run_due()
    source.reading = None
    clock.advance(timedelta(seconds=60))
    await watch.run_due()
    assert trouble(watch) is None, "the last good verdict still counts"
    clock.advance(timedelta(seconds=5))
    assert trouble(watch) is Trouble.EXPIRED
    clock.advance(timedelta(seconds=20))
    await watch.run_due()
    assert trouble(watch) is Trouble.UNSYNCHRONISED
    assert "nobody answers" in str(watch.trouble(1.0))
    source.reading = Reading(0.0, 0.01)
    clock.advance(timedelta(seconds=20))
    await watch.run_due()
    assert trouble(watch) is None


@pytest.mark.parametrize(
    ("offset", "uncertainty", "accuracy", "fine"),
    [(0.5, 0.4, 1.0, True), (-0.5, 0.6, 1.0, False), (0.0, 0.002, 0.001, False), (2.0, 0.0, 1.0, False)],
)
async def test_a_clock_outside_the_accuracy_is_not_stamped(
    offset: float, uncertainty: float, accuracy: float, fine: bool
) -> None:
    watch = ClockWatch((FakeSource(Reading(offset, uncertainty)),), SETTINGS, FakeClock())
    await watch.run_due()
    assert trouble(watch, accuracy) is (None if fine else Trouble.INACCURATE)


@pytest.mark.parametrize("seconds", [5, -5, 3600, -0.2])
async def test_a_step_is_seen_by_the_very_next_request(seconds: float) -> None:
    clock, source = FakeClock(), FakeSource()
    watch = ClockWatch((source,), SETTINGS, clock)
    await watch.run_due()
    clock.advance(timedelta(seconds=3))
    clock.step(timedelta(seconds=seconds))
    assert trouble(watch) is Trouble.STEPPED
    clock.step(timedelta(seconds=-seconds))
    assert trouble(watch) is Trouble.STEPPED, "not believed before somebody has been asked again"
    source.reading = Reading(-seconds, 0.01)
    clock.step(timedelta(seconds=seconds))
    await watch.run_due()
    assert trouble(watch) is (Trouble.INACCURATE if abs(seconds) > 1 else None)


async def test_a_step_while_nobody_asks_is_seen_by_the_job() -> None:
    clock = FakeClock()
    watch = ClockWatch((FakeSource(),), SETTINGS, clock)
    await watch.run_due()
    clock.step(timedelta(seconds=2))
    source_asked = watch.verdict
    await watch.run_due()
    assert watch.verdict is not source_asked
    assert trouble(watch) is None, "asked again at once, and the sources say that the clock is right"


async def test_a_small_slew_uses_up_the_accuracy() -> None:
    clock = FakeClock()
    watch = ClockWatch((FakeSource(Reading(0.0, 0.95)),), SETTINGS, clock)
    await watch.run_due()
    clock.step(timedelta(milliseconds=40))
    assert trouble(watch) is None
    clock.step(timedelta(milliseconds=40))
    assert trouble(watch) is Trouble.INACCURATE


async def test_a_pending_leap_second_stops_everything_or_its_surroundings() -> None:
    late = FakeClock(datetime(2026, 12, 31, 23, 58, 30, tzinfo=UTC))
    watch = ClockWatch((FakeSource(Reading(0.0, 0.01, leap=True)),), SETTINGS, late)
    await watch.run_due()
    assert trouble(watch) is Trouble.LEAP
    narrow = attrs.evolve(SETTINGS, leap_window=timedelta(minutes=1))
    watch = ClockWatch((FakeSource(Reading(0.0, 0.01, leap=True)),), narrow, late)
    await watch.run_due()
    assert trouble(watch) is None
    late.advance(timedelta(seconds=45))
    assert trouble(watch) is Trouble.LEAP
    # At the leap second a clock is set back by one: the step is seen as well.
    late.advance(timedelta(seconds=16))
    late.step(timedelta(seconds=-1))
    assert trouble(watch) is Trouble.STEPPED


async def test_all_sources_must_agree_and_the_worst_counts() -> None:
    clock = FakeClock()
    one, two = FakeSource(Reading(0.1, 0.01)), FakeSource(Reading(0.3, 0.2), name="two")
    watch = ClockWatch((one, two), SETTINGS, clock)
    await watch.run_due()
    assert watch.verdict.error == pytest.approx(0.5)
    two.reading = None
    clock.advance(timedelta(seconds=70))
    await watch.run_due()
    assert trouble(watch) is Trouble.UNSYNCHRONISED


@pytest.mark.parametrize("reading", [Reading(math.nan, 0.0), Reading(0.0, math.inf), Reading(math.inf, math.nan)])
async def test_no_number_is_no_time(reading: Reading) -> None:
    watch = ClockWatch((FakeSource(reading),), SETTINGS, FakeClock())
    await watch.run_due()
    assert trouble(watch) is Trouble.UNSYNCHRONISED


async def test_the_source_system_believes_and_says_so() -> None:
    watch = ClockWatch((SystemSource(),), SETTINGS, FakeClock())
    await watch.run_due()
    assert watch.is_trusting
    assert trouble(watch) is None


# -- NTP --------------------------------------------------------------------------------------------------------------


@attrs.define
class FakeServer(DatagramProtocol):
    """An NTP server that is ``ahead`` by some seconds."""

    ahead: float = 0.0
    leap: int = 0
    stratum: int = 2
    mute: bool = False
    forge: bool = False

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        if self.mute:
            return
        now = SystemClock().now().timestamp() + self.ahead + 2_208_988_800
        stamp = struct.pack("!II", int(now) % (1 << 32), int(now % 1 * (1 << 32)))
        origin = secrets.token_bytes(8) if self.forge else datagram[40:48]
        head = struct.pack("!BBbbII4s", self.leap << 6 | 0x24, self.stratum, 4, -20, 655, 655, b"RATE")
        assert self.transport is not None
        self.transport.write(head + stamp + origin + stamp + stamp, addr)


@contextmanager
def ntp_servers(*servers: FakeServer) -> Iterator[list[str]]:
    ports = [reactor.listenUDP(0, server, "127.0.0.1") for server in servers]
    try:
        yield [f"127.0.0.1:{port.getHost().port}" for port in ports]
    finally:
        for port in ports:
            port.stopListening()


async def ask(*servers: FakeServer) -> Reading:
    with ntp_servers(*servers) as places:
        return await NtpSource(places, SystemClock(), timeout=0.3, reactor=reactor).read()


async def test_servers_that_agree() -> None:
    found = await ask(FakeServer(), FakeServer(), FakeServer())
    assert abs(found.offset) < 0.05
    assert found.uncertainty < 0.1
    assert not found.leap


async def test_a_minority_may_lie_or_be_mute() -> None:
    for odd in (FakeServer(ahead=30), FakeServer(mute=True), FakeServer(forge=True), FakeServer(stratum=0)):
        found = await ask(FakeServer(), FakeServer(), odd)
        assert abs(found.offset) < 0.05


@pytest.mark.parametrize(
    ("servers", "text"),
    [
        ((FakeServer(), FakeServer(ahead=30), FakeServer(mute=True)), "agree"),
        ((FakeServer(), FakeServer(mute=True), FakeServer(mute=True)), "only 1 of 3"),
        ((FakeServer(leap=3), FakeServer(leap=3), FakeServer()), "not synchronised"),
        ((FakeServer(stratum=0),), "refused: RATE"),
        ((FakeServer(stratum=16),), "not synchronised"),
        ((FakeServer(forge=True),), "no answer"),
    ],
)
async def test_no_majority_no_time(servers: tuple[FakeServer, ...], text: str) -> None:
    with pytest.raises(Unavailable, match=text):
        await ask(*[attrs.evolve(one) for one in servers])


async def test_nobody_listens() -> None:
    with ntp_servers(FakeServer()) as places:
        pass
    with pytest.raises(Unavailable):
        await NtpSource(places, SystemClock(), timeout=0.3, reactor=reactor).read()
    with pytest.raises(Unavailable):
        await NtpSource(["no-such-host.invalid"], SystemClock(), timeout=1.0, reactor=reactor).read()


async def test_a_leap_second_is_what_the_majority_announces() -> None:
    assert (await ask(FakeServer(leap=1), FakeServer(leap=1), FakeServer())).leap
    assert not (await ask(FakeServer(leap=1), FakeServer(), FakeServer())).leap


async def test_the_watch_stops_when_its_servers_move_away_and_comes_back() -> None:
    server = FakeServer()
    clock = SystemClock()
    with ntp_servers(server) as places:
        source = NtpSource(places, clock, timeout=0.5, reactor=reactor)
        watch = ClockWatch((source,), SETTINGS, clock)
        await watch.poll()
        assert trouble(watch) is None
        server.ahead = 5
        await watch.poll()
        assert trouble(watch) is Trouble.INACCURATE
        server.ahead, server.leap = 0, 2
        await watch.poll()
        assert trouble(watch) is Trouble.LEAP
        server.leap = 0
        await watch.poll()
        assert trouble(watch) is None


@given(st.binary(max_size=80))
def test_any_packet_is_an_answer_or_none(packet: bytes) -> None:
    with contextlib.suppress(BadAnswer):
        read_answer(packet, packet[24:32], 1e9, 0.01)


def test_the_era_of_2036_is_no_step() -> None:
    cookie = b"12345678"
    for moment in (1_700_000_000.0, 2_085_978_495.5, 2_085_978_497.0, 4_000_000_000.0):
        raw = int((moment + 0.25 + 2_208_988_800) * (1 << 32)) % (1 << 64)
        stamp = raw.to_bytes(8, "big")
        packet = struct.pack("!BBbbII4s", 0x24, 1, 4, -20, 0, 0, b"GPS\0") + stamp + cookie + stamp + stamp
        assert read_answer(packet, cookie, moment, 0.0).offset == pytest.approx(0.25, abs=1e-3)


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(0.001, 2)), min_size=1, max_size=7))
def test_the_majority_s_stretch_is_shared_by_a_majority(found: list[tuple[float, float]]) -> None:
    samples = [Sample(offset, distance, False) for offset, distance in found]
    try:
        agreed = agree(samples, len(samples))
    except Unavailable:
        return
    holding = [one for one in samples if abs(one.offset - agreed.offset) <= one.distance + 1e-9]
    assert len(holding) * 2 > len(samples)


def test_ntp_servers_are_read_with_or_without_a_port() -> None:
    assert ntp.split_server("a.example") == ("a.example", 123)
    assert ntp.split_server("a.example:99") == ("a.example", 99)
    assert ntp.split_server("[::1]:99") == ("::1", 99)
    assert ntp.split_server("[::1]") == ("::1", 123)
    for text in ('sources = ["ntp"]', 'ntp_servers = ["a b"]', 'poll = "2m"', 'sources = ["system", "system"]'):
        with pytest.raises(ConfigurationError):
            load(TimeSettings, text, "t.toml")


# -- chrony -----------------------------------------------------------------------------------------------------------

TRACKING = (
    "A29FC801,time.example,4,1694608014.12,0.000004,-0.000003,0.00002,-1.5,0.001,0.04,0.0091,0.0007,64.5,Normal\n"
)


def test_a_tracking_report() -> None:
    found = read_tracking(TRACKING)
    assert found.error == pytest.approx(0.000004 + 0.0091 / 2 + 0.0007)
    assert not found.leap
    assert read_tracking(TRACKING.replace("Normal", "Insert second")).leap
    for bad in ("", "a,b", TRACKING.replace("Normal", "Not synchronised"), TRACKING.replace("0.0091", "x")):
        with pytest.raises(Unavailable):
            read_tracking(bad)


async def test_chronyc_is_asked(tmp_path: Path) -> None:
    command = tmp_path / "chronyc"

    async def read(script: str, seconds: float = 20.0) -> Reading:
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        return await ChronySource(str(command), timeout=seconds, reactor=reactor).read()

    assert (await read(f"[ \"$*\" = '-c tracking' ] && echo '{TRACKING.strip()}'")).uncertainty > 0
    with pytest.raises(Unavailable, match="506 Cannot talk to daemon"):
        await read("echo '506 Cannot talk to daemon'; exit 1")
    with pytest.raises(Unavailable, match="no answer within"):
        await read("sleep 60", 0.2)
    with pytest.raises(Unavailable):
        await ChronySource(str(tmp_path / "nothing"), timeout=1.0, reactor=reactor).read()


def test_what_stopped_says_why() -> None:
    watch = ClockWatch((), SETTINGS, FakeClock())
    with pytest.raises(TimeNotAvailable, match="no time source is configured"):
        watch.stamp(1.0)
