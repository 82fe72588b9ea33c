"""Seats whose account was deleted, or whose certificate was being made by a process that died."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from sqlalchemy import func, select, text
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from pkiserver.authority.recover import LEASE, Recovery, Settled
from pkiserver.authority.requests import (
    Device,
    EnrollmentRequest,
    IssuedCertificate,
    OperatorEvidence,
    PasswordEvidence,
)
from pkiserver.foundation.errors import Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.registration.accountfiles import Format, read
from pkiserver.registration.accountimport import AccountImport
from pkiserver.registration.release import release
from pkiserver.runtime.engine import Engine, open_engine
from tests.support.claims import Held
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


async def delete(engine: Engine) -> None:
    await engine.accounts.delete("alice", by="admin:olga")


async def replace(engine: Engine) -> None:
    work = AccountImport(engine.database, engine.audit, engine.accounts.hasher, engine.clock)
    plan = await work.plan(read("name\nbob\n", "people.csv", Format.CSV), replace=True)
    await work.apply(plan, by="admin:olga")


@pytest.mark.parametrize("remove", [delete, replace])
async def test_a_namesake_of_a_deleted_account_has_a_seat_of_their_own(
    tmp_path: Path, url: str, remove: Callable[[Engine], Awaitable[None]]
) -> None:
    """The slots were taken by somebody else's devices, and certificates of theirs filled the seat."""
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        assert isinstance(await engine.enroll(asked(MINE)), IssuedCertificate)
        [left] = await engine.seats.search(identity="alice")
        printer = await engine.seats.create("device", "CN=printer", owner="alice", by="admin:olga")
        await remove(engine)
        assert await engine.seats.search(identity="alice") == ()
        kept = await engine.seats.detail(left.id)
        assert (kept.seat.archived, kept.seat.identity) == (True, f"alice: account deleted, seat {left.id}")
        assert (len(kept.certificates), kept.slots[0].device) == (1, "laptop")
        assert kept.events[0].what == "archived: account alice was deleted"
        owned = await engine.seats.detail(printer.id)
        assert (owned.seat.owner, owned.seat.archived) == (None, False)
        assert (owned.events[0].actor, owned.events[0].what) == ("admin:olga", "no owner: account alice was deleted")
        await engine.accounts.create("alice", GOOD, by="tester")
        assert isinstance(await engine.enroll(asked(OTHER)), IssuedCertificate)
        [own] = await engine.seats.search(identity="alice")
        assert (own.id != left.id, own.owner) == (True, None)
        # once more: each has its own name
        await delete(engine)
        assert (await engine.seats.get(own.id)).identity == f"alice: account deleted, seat {own.id}"


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


async def test_an_account_that_is_deleted_while_it_enrols_leaves_no_seat_in_its_name(tmp_path: Path, url: str) -> None:
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        decided = await engine.gate.decide(asked(MINE))
        await delete(engine)
        with pytest.raises(Rejected, match="account alice was deleted meanwhile"):
            await engine.road.prepare(decided)  # type: ignore[arg-type]
        assert await engine.seats.search() == ()


@pytest.mark.postgresql
async def test_a_seat_that_is_made_while_another_process_deletes_its_account_is_archived(
    tmp_path: Path, postgres_url: str
) -> None:
    waits = select(func.count()).select_from(text("pg_locks")).where(text("NOT granted"))
    async with (
        engine_with(tmp_path, TEXTS, url=postgres_url) as one,
        open_engine(one.settings, worker="1") as two,
    ):
        await one.accounts.create("alice", GOOD, by="tester")
        held = Held()
        enrolled = Deferred.fromCoroutine(one.enroll(asked(MINE), claims=(held,)))
        await deferToThread(held.taken.wait, 30)
        deleted = Deferred.fromCoroutine(delete(two))
        while not deleted.called and not await one.database.read(lambda c: c.execute(waits).scalar_one()):
            pass
        held.go.set()
        assert isinstance(await enrolled, IssuedCertificate)
        await deleted
        [seat] = await one.seats.search()
        assert (seat.archived, seat.identity.partition(":")[2][:16]) == (True, " account deleted")


async def test_a_slot_of_which_two_certificates_were_being_made_learns_again(tmp_path: Path, url: str) -> None:
    """A request and its retry: the one kept the slot for the other."""
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        await engine.accounts.create("alice", GOOD, by="tester")
        for _ in range(2):
            await engine.road.prepare(await engine.gate.decide(asked(MINE, "open")))  # type: ignore[arg-type]
        assert await settled(engine) == Settled(burnt=2)
        [seat] = await engine.seats.search(identity="alice")
        assert (await engine.seats.detail(seat.id)).slots[0].signature is None
        assert isinstance(await engine.enroll(asked(OTHER, "open")), IssuedCertificate)


async def test_a_device_whose_subject_is_written_as_a_deleted_account_keeps_its_seat(tmp_path: Path, url: str) -> None:
    texts = {"gear": template_text("gear", '[[evidence]]\nall = ["operator"]\n', "[seats]\nenabled = true\n")}
    async with engine_with(tmp_path, texts, url=url) as engine:
        request = enrollment("gear", OperatorEvidence("root"), name="gear-17", protocol="cli")
        assert isinstance(await engine.enroll(request), IssuedCertificate)
        [seat] = await engine.seats.search(template="gear")
        await engine.accounts.create(seat.identity, GOOD, by="tester")
        await engine.accounts.delete(seat.identity, by="admin:olga")
        left = await engine.seats.get(seat.id)
        assert (left.identity, left.archived) == ("CN=gear-17", False)


async def settled(engine: Engine) -> Settled:
    """What another process settles once this one has given no sign of life for long."""
    later = FakeClock(engine.clock.now() + LEASE + timedelta(seconds=1))
    other = Recovery(database=engine.database, audit=engine.audit, clock=later, holder="other", released=release)
    return await other.settle()
