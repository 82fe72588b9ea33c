"""Requests that show nobody and wait for officers: how many there may be; on both databases."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from twisted.logger import capturedLogs, formatEvent

from pkiserver.authority.requests import EnrollmentRequest, Evidence, PasswordEvidence, SelfSignedEvidence
from pkiserver.authority.templates.library import load_template
from pkiserver.authority.templates.model import EvidenceKind, EvidenceRule
from pkiserver.foundation.errors import Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.foundation.tomlfile import ConfigurationError
from pkiserver.registration.approvals import Pending
from pkiserver.registration.guesses import Guesses
from pkiserver.registration.guesssettings import GuessSettings
from pkiserver.registration.waiting import WaitingBound
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.services.collectors import EngineMetrics
from tests.support.clock import FakeClock
from tests.support.engines import engine_with, enrollment, template_text


def rule(kind: str, more: str = "") -> str:
    return f'[[evidence]]\nall = ["{kind}"]\napproval = true\napproval_lifetime = "1h"\n{more}\n'


BOUND = "waiting = 5\nwaiting_each = 2"
TEXTS = {
    "open": template_text("open", rule("anonymous", BOUND)),
    "signed": template_text("signed", rule("self_signed", BOUND)),
    "either": template_text("either", rule("anonymous", BOUND) + rule("password")),
}
ALICE = PasswordEvidence("alice", Secret("a long password"))


@asynccontextmanager
async def opened(folder: Path, url: str, clock: FakeClock) -> AsyncIterator[Engine]:
    async with engine_with(folder, TEXTS, url=url, clock=clock) as engine:
        await engine.accounts.create("alice", ALICE.password, by="tester")
        yield engine


def asked(template: str, source: str, *more: Evidence) -> EnrollmentRequest:
    made = enrollment(template, *more)
    own = (SelfSignedEvidence(hashlib.sha256(made.spki).digest()),) if template == "signed" else ()
    return attrs.evolve(made, source=source, evidence=(*made.evidence, *own))


@pytest.mark.parametrize("template", ["open", "signed"])
async def test_who_shows_nothing_fills_neither_the_table_nor_everybodys_place(
    tmp_path: Path, url: str, template: str
) -> None:
    clock = FakeClock()
    async with opened(tmp_path, url, clock) as engine:

        async def waits(source: str) -> int:
            answer = await engine.enroll(asked(template, source))
            assert isinstance(answer, Pending)
            return answer.request_number

        first = asked(template, "192.0.2.1")
        assert isinstance(await engine.enroll(first), Pending)
        number = await waits("192.0.2.1")
        with capturedLogs() as captured:
            for _ in range(3):
                with pytest.raises(Unavailable, match="of this address wait for approval") as caught:
                    await engine.enroll(asked(template, "192.0.2.1"))
        assert (caught.value.retry_after, caught.value.shown) == (600, caught.value.text)
        told = [text for event in captured if "too many requests wait" in (text := formatEvent(event))]
        assert len(told) == 1
        assert template in told[0]
        assert "192.0.2.1" in told[0]
        # whoever waits is answered as before, and there is room for others, an IPv6 site of whom is one
        assert isinstance(await engine.enroll(first), Pending)
        await waits("2001:db8::1")
        await waits("2001:db8::2")
        with pytest.raises(Unavailable, match="of this address"):
            await engine.enroll(asked(template, "2001:db8::3"))
        await waits("198.51.100.1")
        with pytest.raises(Unavailable, match="of this kind"):
            await engine.enroll(asked(template, "198.51.100.2"))
        # another template has its own; what was decided, or is over, waits no more
        await engine.enroll(asked("signed" if template == "open" else "open", "192.0.2.1"))
        await engine.approvals.decide(number, approved=False, by="officer")
        await waits("192.0.2.1")
        with pytest.raises(Unavailable):
            await engine.enroll(asked(template, "192.0.2.1"))
        clock.advance(timedelta(hours=2))
        await waits("192.0.2.1")
        registry = CollectorRegistry()
        registry.register(EngineMetrics(engine))
        shown = generate_latest(registry).decode()
        assert f'pkiserver_requests_turned_away_total{{bound="address",template="{template}"}} 4.0' in shown
        assert f'pkiserver_requests_turned_away_total{{bound="template",template="{template}"}} 2.0' in shown


async def test_who_has_shown_who_they_are_finds_room_whoever_else_waits(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url, FakeClock()) as engine:
        for number in range(5):
            await engine.enroll(asked("either", f"192.0.2.{number}"))
        with pytest.raises(Unavailable):
            await engine.enroll(asked("either", "192.0.2.9"))
        for _ in range(4):
            assert isinstance(await engine.enroll(asked("either", "192.0.2.9", ALICE)), Pending)


async def test_who_is_turned_away_costs_neither_a_check_of_the_contents_nor_a_write(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, url, FakeClock()) as engine:
        for _ in range(2):
            await engine.enroll(asked("open", "192.0.2.1"))
        for work in ("pkiserver.registration.gate.check_request", "pkiserver.registration.approvals.Approvals.ask"):
            monkeypatch.setattr(work, lambda *_, work=work, **_more: pytest.fail(work))
        with pytest.raises(Unavailable, match="of this address"):
            await engine.enroll(asked("open", "192.0.2.1"))


def test_many_behind_a_proxy_are_bounded_together_only() -> None:
    one = EvidenceRule((EvidenceKind.SELF_SIGNED,), approval=True)
    assert WaitingBound.of("t", one, exempt=True) == WaitingBound("t", 1000, None)
    assert WaitingBound.of("t", one, exempt=False) == WaitingBound("t", 1000, 50)
    known = EvidenceRule((EvidenceKind.SELF_SIGNED, EvidenceKind.CODE), approval=True)
    assert WaitingBound.of("t", known, exempt=False) is None
    guesses = Guesses(GuessSettings(exempt=("192.0.2.0/24",)), None, FakeClock())  # type: ignore[arg-type]
    assert [guesses.is_exempt(address) for address in ("192.0.2.7", "192.0.3.7")] == [True, False]


@pytest.mark.parametrize("more", ["waiting = 0", "waiting_each = 0", "waiting = 100001"])
def test_bounds_that_bound_nothing_are_refused(more: str) -> None:
    with pytest.raises(ConfigurationError, match="waiting"):
        load_template(template_text("open", rule("anonymous", more)), "open.toml")
