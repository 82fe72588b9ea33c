"""Seats whose certificate was being made by a process that died."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import attrs
import pytest

from pkiserver.authority.recover import LEASE, Recovery, Settled
from pkiserver.authority.requests import Device, EnrollmentRequest, IssuedCertificate, PasswordEvidence
from pkiserver.foundation.errors import Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.registration.release import release
from pkiserver.runtime.engine import Engine
from tests.support.clock import FakeClock
from tests.support.engines import engine_with, enrollment, template_text

PASSWORD = '[[evidence]]\nall = ["password"]\n'
ONE_SLOT = 'slots = ["learn_once"]\ndevice_required = true\ncertificates = 1\nlimit = 2\n'
TEXTS = {
    "device": template_text("device", PASSWORD, f"[seats]\nenabled = true\n{ONE_SLOT}"),
    "open": template_text("open", PASSWORD, "[seats]\nenabled = true\nslots = ['learn_once']\n"),
}
GOOD = Secret("a long password")
MINE, OTHER = Device("CS-1", "laptop"), Device("CS-2", "another laptop")


def asked(device: Device, template: str = "device") -> EnrollmentRequest:
    return attrs.evolve(enrollment(template, PasswordEvidence("alice", GOOD), name="alice"), device=device)


@pytest.mark.parametrize("asked_for", [False, True], ids=["prepared", "asked"])
async def test_a_slot_that_learned_for_a_certificate_of_a_dead_process_learns_again(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, asked_for: bool
) -> None:
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        decided = await engine.gate.decide(asked(MINE))
        await engine.road.prepare(decided, ask=asked_for)  # type: ignore[arg-type]
        with pytest.raises(Rejected, match="no slot of the seat may learn it"):
            await engine.enroll(asked(OTHER))
        assert await settled(engine) == (Settled(kept=1) if asked_for else Settled(burnt=1))
        [seat] = await engine.seats.search(identity="alice")
        detail = await engine.seats.detail(seat.id)
        assert (detail.certificates, detail.slots[0].signature, seat.first_success) == ((), None, None)
        assert isinstance(await engine.enroll(asked(OTHER)), IssuedCertificate)


async def test_a_device_that_has_a_certificate_since_keeps_its_slot(tmp_path: Path, url: str) -> None:
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        await engine.road.prepare(await engine.gate.decide(asked(MINE, "open")))  # type: ignore[arg-type]
        assert isinstance(await engine.enroll(asked(MINE, "open")), IssuedCertificate)
        assert await settled(engine) == Settled(burnt=1)
        [seat] = await engine.seats.search(identity="alice")
        detail = await engine.seats.detail(seat.id)
        assert (len(detail.certificates), detail.slots[0].signature) == (1, "cs-1")
        assert seat.first_success is not None
        with pytest.raises(Rejected, match="no slot of the seat may learn it"):
            await engine.enroll(asked(OTHER, "open"))


async def settled(engine: Engine) -> Settled:
    """What another process settles once this one has given no sign of life for long."""
    later = FakeClock(engine.clock.now() + LEASE + timedelta(seconds=1))
    other = Recovery(database=engine.database, audit=engine.audit, clock=later, holder="other", released=release)
    return await other.settle()
