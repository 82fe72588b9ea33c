"""Approvals by several of a group, and what an insider with the database cannot do; on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from sqlalchemy import delete, func, insert, select, update
from twisted.internet.defer import Deferred, DeferredList

from pkiserver.audit import AuditLog
from pkiserver.audit.export import details_of
from pkiserver.authority.requests import ClientCertificateEvidence, CodeEvidence, IssuedCertificate, PasswordEvidence
from pkiserver.authority.revocation import ByCertificate, Order
from pkiserver.authority.status.turns import Turns
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.registration.administrators import Administrator, Role
from pkiserver.registration.approvals import Approvals, Pending
from pkiserver.registration.operations import OperationKind
from pkiserver.registration.votes import Person, Votes
from pkiserver.runtime.engine import Engine
from pkiserver.runtime.services import upkeep
from pkiserver.runtime.services.upkeep import clean
from pkiserver.store.certificates import RevocationReason
from pkiserver.store.database import Database
from pkiserver.store.registration.operations import OperationState
from pkiserver.store.registration.requests import RequestState
from pkiserver.store.schema.audit import audit_event
from pkiserver.store.schema.management import approval_vote
from pkiserver.store.schema.registration import enrollment_request
from tests.support.clock import FakeClock
from tests.support.engines import engine_with, enrollment, template_text

TWO = '[[evidence]]\nall = ["password"]\napproval = true\napprovals = 2\napprovers = ["officers"]\n'
CODE = '[[evidence]]\nall = ["code"]\napproval = true\napproval_lifetime = "1h"\n'
ONE = '[[evidence]]\nall = ["password"]\napproval = true\n'
TEXTS = {
    "two": template_text("two", TWO),
    "code": template_text("code", CODE),
    "brief": template_text("brief", ONE).replace('"90d"', '"2h"'),
}
ALICE = PasswordEvidence("alice", Secret("a long password"))
OFFICERS = frozenset({"officers"})


def officer(name: str, account: str | None = None) -> Person:
    return Person(f"admin:{name}", OFFICERS, account)


@asynccontextmanager
async def opened(folder: Path, url: str, clock: FakeClock | None = None) -> AsyncIterator[Engine]:
    async with engine_with(folder, TEXTS, url=url, clock=clock) as engine:
        await engine.accounts.create("alice", ALICE.password, by="tester")
        for name in ("bob", "carol", "dave", "ruth"):
            one = Administrator(name, frozenset({Role.RA_OFFICER}), groups=OFFICERS)
            await engine.administrators.create(one, by="tester")
        await engine.administrators.create(Administrator("ada", frozenset({Role.ADMINISTRATOR})), by="tester")
        yield engine


async def test_what_ended_long_ago_is_forgotten_with_its_votes_by_one_process(tmp_path: Path, url: str) -> None:
    clock = FakeClock()
    async with opened(tmp_path, url, clock) as engine:
        mine, other = (Turns(engine.database, clock, holder) for holder in ("mine", "other"))
        for number in range(3):
            await engine.enroll(enrollment("two", ALICE, name=f"device-{number}"))
        await engine.approvals.decide(1, approved=True, by=officer("ruth"))
        await engine.approvals.decide(2, approved=False, by=officer("ruth"))
        ask = {"detail": "a key"}
        for number in range(2):
            await engine.operations.ask(
                OperationKind.EXPORT_SECRET, f"key {number}", ask, reason="x", by=officer("ada")
            )
        await engine.operations.decide(1, approved=False, by=officer("ruth"))
        clock.advance(timedelta(days=60))
        async with other.turn("upkeep"):
            await clean(engine, mine)  # another process is at it
            assert (await engine.approvals.get(1)).state is RequestState.PENDING
        await clean(engine, mine)
        states = [(await engine.approvals.get(number)).state for number in (1, 2, 3)]
        assert states == [RequestState.EXPIRED, RequestState.DENIED, RequestState.EXPIRED]
        assert (await engine.operations.get(2)).row.state is OperationState.EXPIRED
        clock.advance(timedelta(days=401))
        await clean(engine, mine)
        assert [one.id for one in await engine.approvals.list_page(state=None)] == [3]  # no number is given out twice
        assert [one.number for one in await engine.operations.list_page()] == [2]
        count = select(func.count()).select_from(approval_vote)
        assert await engine.database.read(lambda connection: connection.execute(count).scalar_one()) == 0


async def test_what_is_over_is_cleaned_up_in_parts_and_all_of_it(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "AT_ONCE", 2)
    clock = FakeClock()
    async with opened(tmp_path, url, clock) as engine:
        for _ in range(5):
            _, code = await engine.codes.create(
                template="code", subject=None, sans=(), lifetime=timedelta(days=1), by="admin:bob"
            )
            await engine.enroll(enrollment("code", CodeEvidence(code)))
        clock.advance(timedelta(days=100))
        await clean(engine, Turns(engine.database, clock, "mine"))
        states = [one.state for one in await engine.approvals.list_page(state=None)]
        assert states == [RequestState.EXPIRED] * 5
        assert await engine.codes.list_page() == ()


async def test_who_asks_again_does_not_wait_for_all_that_expired_before(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pkiserver.registration.approvals._EXPIRED_BY_ONE", 1)
    clock = FakeClock()
    async with opened(tmp_path, url, clock) as engine:
        asked = [enrollment("brief", ALICE) for _ in range(3)]
        for request in asked:
            await engine.enroll(request)
            clock.advance(timedelta(minutes=1))
        clock.advance(timedelta(days=60))
        again = await engine.enroll(asked[-1])
        assert isinstance(again, Pending)
        assert again.request_number == 4
        states = [one.state for one in await engine.approvals.list_page(state=None)]
        assert states == [RequestState.PENDING, RequestState.EXPIRED, RequestState.PENDING, RequestState.EXPIRED]


async def refusals(engine: Engine, number: int, by: str | Person, *, approved: bool = True) -> set[Refusal]:
    with pytest.raises(Rejected) as caught:
        await engine.approvals.decide(number, approved=approved, by=by)
    return {reason.code for reason in caught.value.reasons}


async def test_two_of_a_group_must_agree_and_nobody_twice(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        request = enrollment("two", ALICE)
        pending = await engine.enroll(request)
        assert isinstance(pending, Pending)
        number = pending.request_number
        waiting = await engine.approvals.get(number)
        assert waiting.reasons == ("rule password wants 2 approval(s) of officers",)
        assert "subject: CN=device-1" in waiting.checks
        assert await refusals(engine, number, "admin:carol") == {Refusal.NOT_AUTHORISED}
        assert await refusals(engine, number, officer("Alice")) == {Refusal.NOT_AUTHORISED}
        assert await refusals(engine, number, officer("a.smith", account="alice")) == {Refusal.NOT_AUTHORISED}
        first = await engine.approvals.decide(number, approved=True, by=officer("bob"))
        assert first.state is RequestState.PENDING
        assert await refusals(engine, number, officer("bob")) == {Refusal.CONFLICT}
        assert await refusals(engine, number, Person("cli:Bob", OFFICERS)) == {Refusal.CONFLICT}
        assert isinstance(await engine.enroll(request), Pending)
        second = await engine.approvals.decide(number, approved=True, by=officer("carol"), reason="seen")
        assert (second.state, second.decided_by) == (RequestState.APPROVED, "admin:carol")
        made = await engine.enroll(request)
        assert isinstance(made, IssuedCertificate)
        again = await engine.enroll(request)
        assert isinstance(again, IssuedCertificate)
        assert again.der == made.der
        events = await engine.database.read(lambda c: c.execute(select(audit_event)).all())
        assert [event.actor for event in events if event.kind == "approval"] == ["admin:bob", "admin:carol"]
        assert [(event.actor, event.object) for event in events if event.kind == "request"] == [("alice", "request 1")]


async def test_one_refusal_denies(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        request = enrollment("two", ALICE)
        pending = await engine.enroll(request)
        assert isinstance(pending, Pending)
        await engine.approvals.decide(pending.request_number, approved=True, by=officer("bob"))
        await engine.approvals.decide(pending.request_number, approved=False, by=officer("carol"), reason="not ours")
        assert await refusals(engine, pending.request_number, officer("dave")) == {Refusal.CONFLICT}
        with pytest.raises(Rejected, match="not ours"):
            await engine.enroll(request)


async def test_approvals_that_come_at_the_same_time_from_two_processes_are_all_counted(
    tmp_path: Path, url: str
) -> None:
    async with opened(tmp_path, url) as engine:
        other = await Database.open(url)
        try:
            for turn in range(10):
                pending = await engine.enroll(enrollment("two", ALICE, name=f"device-{turn}"))
                assert isinstance(pending, Pending)
                deskmate = Approvals(other, _audit_of(other, engine), engine.clock)
                votes = [
                    Deferred.fromCoroutine(desk.decide(pending.request_number, approved=True, by=officer(name)))
                    for desk, name in ((engine.approvals, "bob"), (deskmate, "carol"), (deskmate, "bob"))
                ]
                results = await DeferredList(votes, consumeErrors=True)
                assert sum(fine for fine, _ in results) == 2
                found = await engine.approvals.get(pending.request_number)
                assert found.state is RequestState.APPROVED
        finally:
            await other.close()


def _audit_of(database: Database, engine: Engine) -> AuditLog:
    return AuditLog(database, node="other", worker="0", clock=engine.clock)


async def test_who_made_the_code_does_not_approve_its_use_and_requests_expire(tmp_path: Path, url: str) -> None:
    clock = FakeClock()
    async with opened(tmp_path, url, clock) as engine:
        _, code = await engine.codes.create(
            template="code", subject=None, sans=(), lifetime=timedelta(days=1), by="admin:bob"
        )
        request = enrollment("code", CodeEvidence(code))
        pending = await engine.enroll(request)
        assert isinstance(pending, Pending)
        assert await refusals(engine, pending.request_number, officer("bob")) == {Refusal.NOT_AUTHORISED}
        clock.advance(timedelta(hours=2))
        assert await refusals(engine, pending.request_number, officer("carol")) == {Refusal.CONFLICT}
        again = await engine.enroll(request)
        assert isinstance(again, Pending)
        assert again.request_number != pending.request_number


async def test_a_request_that_no_approval_would_help_is_refused_at_once(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        with pytest.raises(Rejected) as caught:
            await engine.enroll(enrollment("two", ALICE, hosts=("not_a_host",)))
        assert caught.value.has(Refusal.BAD_NAME)
        assert await engine.approvals.list_page() == ()


async def test_row_40_an_approval_written_into_the_database_is_none(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as plain:
        marked = Approvals(plain.database, plain.audit, plain.clock, Votes(Secret(b"k" * 32)))
        engine = attrs.evolve(plain, approvals=marked, gate=attrs.evolve(plain.gate, approvals=marked))
        request = enrollment("two", ALICE)
        pending = await engine.enroll(request)
        assert isinstance(pending, Pending)
        number = pending.request_number
        r, v = enrollment_request, approval_vote
        state = update(r).where(r.c.id == number).values(state="approved")
        await engine.database.write(lambda c: c.execute(state).rowcount)
        with pytest.raises(Rejected, match="has 0 of 2 approvals"):
            await engine.enroll(request)
        forged = {"kind": "request", "number": number, "approved": True, "reason": "", "at": 1, "mac": b"x" * 32}
        rows = [{**forged, "voter": name} for name in ("bob", "carol")]
        await engine.database.write(lambda c: c.execute(insert(v), rows).rowcount)
        with pytest.raises(Rejected, match="was changed in the database"):
            await engine.enroll(request)
        # one real vote, and the number that is needed changed to one
        await engine.database.write(lambda c: c.execute(delete(v)).rowcount)
        await engine.database.write(lambda c: c.execute(update(r).values(state="pending")).rowcount)
        await engine.approvals.decide(number, approved=True, by=officer("bob"))
        await engine.database.write(lambda c: c.execute(update(r).values(state="approved", needed=1)).rowcount)
        with pytest.raises(Rejected, match="was changed in the database"):
            await engine.enroll(request)
        kinds = await engine.database.read(lambda c: c.execute(select(audit_event.c.kind)).scalars().all())
        assert kinds.count("refusal") == 3


async def test_whoever_asks_again_gets_the_same_certificate_though_the_code_is_spent(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        for _ in range(3):
            _, code = await engine.codes.create(
                template="code", subject=None, sans=(), lifetime=timedelta(days=1), by="admin:bob"
            )
            request = enrollment("code", CodeEvidence(code))
            pending = await engine.enroll(request)
            assert isinstance(pending, Pending)
            await engine.approvals.decide(pending.request_number, approved=True, by=officer("carol"))
            answers = await DeferredList([Deferred.fromCoroutine(engine.enroll(request)) for _ in range(8)])
            assert len({answer.der for fine, answer in answers if fine}) == 1
            as_password = attrs.evolve(request, evidence=(PasswordEvidence("any", code),))
            again = await engine.enroll(as_password)
            assert isinstance(again, IssuedCertificate)
            assert {again.der} == {answer.der for fine, answer in answers if fine}
            # the code is good for nothing else
            with pytest.raises(Rejected, match="has been used"):
                await engine.enroll(enrollment("code", CodeEvidence(code)))


@pytest.mark.parametrize("end", ["revoked", "expired"])
async def test_a_certificate_that_is_over_is_no_answer_to_who_asks_again(tmp_path: Path, url: str, end: str) -> None:
    clock = FakeClock()
    async with opened(tmp_path, url, clock) as engine:
        request = enrollment("brief", ALICE)

        async def approved() -> IssuedCertificate:
            pending = await engine.enroll(request)
            assert isinstance(pending, Pending)
            await engine.approvals.decide(pending.request_number, approved=True, by=officer("carol"))
            made = await engine.enroll(request)
            assert isinstance(made, IssuedCertificate)
            return made

        first = await approved()
        again = await engine.enroll(request)
        assert isinstance(again, IssuedCertificate)
        assert again.der == first.der
        if end == "revoked":
            what = ByCertificate(first.der)
            await engine.status.revocations.revoke(what, RevocationReason.CESSATION_OF_OPERATION, Order("cli:root"))
        else:
            clock.advance(timedelta(hours=3))
        second = await approved()
        assert second.serial != first.serial


async def test_a_code_whose_certificate_was_revoked_brings_nothing_any_more(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        lifetime = timedelta(days=1)
        _, code = await engine.codes.create(template="code", subject=None, sans=(), lifetime=lifetime, by="admin:bob")
        request = enrollment("code", CodeEvidence(code))
        pending = await engine.enroll(request)
        assert isinstance(pending, Pending)
        await engine.approvals.decide(pending.request_number, approved=True, by=officer("carol"))
        made = await engine.enroll(request)
        assert isinstance(made, IssuedCertificate)
        what = ByCertificate(made.der)
        await engine.status.revocations.revoke(what, RevocationReason.SUPERSEDED, Order("cli:root"))
        with pytest.raises(Rejected, match="has been used"):
            await engine.enroll(request)


async def logged(engine: Engine, *objects: str) -> list[tuple[str, str, str, dict[str, str]]]:
    """Kind, actor, object and details of the events about these objects."""
    rows = await engine.database.read(lambda c: c.execute(select(audit_event).order_by(audit_event.c.at)).all())
    return [(one.kind, one.actor, one.object, details_of(one)) for one in rows if one.object in objects]


async def test_the_log_leads_from_who_asked_to_the_certificate(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        request = enrollment("two", ALICE)
        assert isinstance(await engine.enroll(request), Pending)
        for name in ("bob", "carol"):
            await engine.approvals.decide(1, approved=True, by=officer(name))
        made = await engine.enroll(request)
        assert isinstance(made, IssuedCertificate)
        asked, *votes, issued = await logged(engine, "request 1", f"certificate {made.serial:x}")
        assert (asked[:3], asked[3]["subject"]) == (("request", "alice", "request 1"), "CN=device-1")
        assert [vote[:2] for vote in votes] == [("approval", "admin:bob"), ("approval", "admin:carol")]
        assert (issued[0], issued[3]["decided_by"]) == ("issue", "approval of request 1")
        renewed = await engine.enroll(enrollment("two", ClientCertificateEvidence(made.der), renewal_of=made.der))
        assert isinstance(renewed, IssuedCertificate)
        [again] = await logged(engine, f"certificate {renewed.serial:x}")
        assert again[3]["decided_by"] == "renewal with the current certificate"


async def test_the_end_of_what_nobody_decided_is_in_the_log(tmp_path: Path, url: str) -> None:
    clock = FakeClock()
    async with opened(tmp_path, url, clock) as engine:
        await engine.enroll(enrollment("two", ALICE))
        ask = {"detail": "a key"}
        await engine.operations.ask(OperationKind.EXPORT_SECRET, "key", ask, reason="x", by=officer("ada"))
        clock.advance(timedelta(days=60))
        await clean(engine, Turns(engine.database, clock, "mine"))
        for what in ("request 1", "operation 1"):
            *_, end = await logged(engine, what)
            assert (end[:2], end[3]["change"]) == (("request", "system"), "expired")
        # the next to ask lets expire what was not cleaned up
        await engine.enroll(enrollment("two", ALICE))
        await engine.operations.ask(OperationKind.EXPORT_SECRET, "key", ask, reason="x", by=officer("ada"))
        clock.advance(timedelta(days=60))
        await engine.enroll(enrollment("two", ALICE))
        await engine.operations.ask(OperationKind.EXPORT_SECRET, "key", ask, reason="x", by=officer("ada"))
        for what in ("request 2", "operation 2"):
            *_, end = await logged(engine, what)
            assert end[3]["change"] == "expired"
