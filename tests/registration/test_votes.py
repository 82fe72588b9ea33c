"""Who decides: two officers at the same moment, one person in every disguise, and voters who are none any more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from sqlalchemy import select
from twisted.internet.threads import deferToThread

from pkiserver.authority.requests import CodeEvidence, EnrollmentRequest, IssuedCertificate, PasswordEvidence
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.registration.administrators import Administrator, Role
from pkiserver.registration.approvals import Pending
from pkiserver.registration.operations import OperationKind
from pkiserver.registration.votes import Person, may_be_one
from pkiserver.runtime.engine import Engine
from pkiserver.store.authority import templates
from pkiserver.store.registration.operations import OperationState
from pkiserver.store.registration.requests import RequestState
from pkiserver.store.schema.audit import audit_event
from tests.support import children
from tests.support.clock import FakeClock
from tests.support.engines import engine_with, enrollment, template_text

PASSWORD = '[[evidence]]\nall = ["password"]\napproval = true\n'
TWO = f'{PASSWORD}approvals = 2\napprovers = ["officers"]\napproval_lifetime = "1h"\n'
CODE = '[[evidence]]\nall = ["code"]\napproval = true\n'
FIXED = '[[subject.parts]]\nattribute = "organization"\nfrom = "fixed"\nvalue = "Example"\n'
TEXTS = {
    "one": template_text("one", PASSWORD),
    "two": template_text("two", TWO),
    "long": template_text("long", TWO.replace("1h", "7d")),
    "code": template_text("code", CODE),
    "seated": template_text("seated", PASSWORD, "[seats]\nenabled = true\n"),
    "device": template_text("device", CODE, f"[seats]\nenabled = true\n{FIXED}"),
}
GOOD = Secret("a long password")
OFFICERS = frozenset({"officers"})


@asynccontextmanager
async def opened(folder: Path, url: str, clock: FakeClock | None = None) -> AsyncIterator[Engine]:
    async with engine_with(folder, TEXTS, url=url, clock=clock) as engine:
        for account in ("alice", "r.jones"):
            await engine.accounts.create(account, GOOD, by="tester")
        for name in ("bob", "carol", "dave"):
            await officer(engine, name)
        yield engine


async def officer(engine: Engine, name: str, *roles: Role, **more: object) -> Person:
    values = {"groups": OFFICERS, **more}
    one = Administrator(name, frozenset(roles or {Role.RA_OFFICER}), **values)  # type: ignore[arg-type]
    return (await engine.administrators.create(one, by="tester")).person


async def asked(engine: Engine, template: str = "two", account: str = "alice") -> tuple[EnrollmentRequest, int]:
    request = enrollment(template, PasswordEvidence(account, GOOD), name=f"{account}-{id(object())}")
    pending = await engine.enroll(request)
    assert isinstance(pending, Pending)
    return request, pending.request_number


async def vote(engine: Engine, number: int, by: str | Person, *, approved: bool = True) -> RequestState:
    person = (await engine.administrators.get(by)).person if isinstance(by, str) else by
    return (await engine.approvals.decide(number, approved=approved, by=person)).state


async def refused(engine: Engine, number: int, by: str | Person, *, approved: bool = True) -> set[Refusal]:
    with pytest.raises(Rejected) as caught:
        await vote(engine, number, by, approved=approved)
    return {reason.code for reason in caught.value.reasons}


async def test_two_officers_in_two_processes_decide_at_the_same_moment_and_one_of_them_is_heard(
    tmp_path: Path, url: str
) -> None:
    async with opened(tmp_path, url) as engine:
        waiting = {number: request for request, number in [await asked(engine, "one") for _ in range(12)]}

        def race() -> list[dict[int, str]]:
            module = "tests.registration.voting_child"
            running = [children.start(module, url, *one, *waiting) for one in (("bob", "yes"), ("carol", "no"))]
            for child in running:
                assert child.stdout is not None
                assert child.stdout.readline() == "ready\n"
            for child in running:
                assert child.stdin is not None
                child.stdin.write("go\n")
                child.stdin.flush()
            said = [children.finish(child).splitlines() for child in running]
            return [{int(number): what for number, _, what in (line.partition(" ") for line in one)} for one in said]

        bob, carol = await deferToThread(race)
        events = await engine.database.read(lambda c: c.execute(select(audit_event)).all())
        for number, request in waiting.items():
            assert sorted((bob[number], carol[number])) == ["conflict", "done"]
            approved = bob[number] == "done"
            noted = [(one.kind, one.actor) for one in events if one.object == f"request {number}"]
            assert noted[1:] == [("approval", "admin:bob") if approved else ("refusal", "admin:carol")]
            if approved:
                first, second = await engine.enroll(request), await engine.enroll(request)
                assert isinstance(first, IssuedCertificate)
                assert isinstance(second, IssuedCertificate)
                assert first.der == second.der
            else:
                with pytest.raises(Rejected, match="was denied: carol"):
                    await engine.enroll(request)


@pytest.mark.parametrize(
    ("name", "account"),
    [("alice", None), ("Alice", None), ("ALICE@example.org", None), ("a.smith", "alice"), ("a.smith", "staff:Alice"),
     ("a.smith", r"EXAMPLE\alice")],
)  # fmt: skip
async def test_row_29_nobody_decides_their_own_in_any_disguise(tmp_path: Path, name: str, account: str | None) -> None:
    async with opened(tmp_path, f"sqlite:///{tmp_path / 'db'}") as engine:
        _, number = await asked(engine)
        person = await officer(engine, name, account=account)
        for approved in (True, False):
            assert await refused(engine, number, person, approved=approved) == {Refusal.NOT_AUTHORISED}
        assert await refused(engine, number, Person(f"cli:{name}", OFFICERS, account)) == {Refusal.NOT_AUTHORISED}


def test_names_that_may_be_one_person_and_names_that_are_not() -> None:
    for one, other in (
        ("admin:alice", "ldap:alice"), ("admin:alice", r"staff:EXAMPLE\alice"), ("cli:alice", "ad:Alice@example.org"),
        ("admin:ALICE", "alice"), ("admin:\uff41lice", "alice"), ("hr:alice", "ldap:alice"),
    ):  # fmt: skip
        assert may_be_one({one}, {other}), (one, other)
        assert may_be_one({other}, {one}), (other, one)
    for one, other in (
        ("admin:alice", "bob"), ("admin:7", "enroll-code:7"), ("alice@one.example", "alice@two.example"),
        ("admin:alice", "anonymous"), ("admin:ali", "alice"), ("admin:ldap", "ldap:alice"),
    ):  # fmt: skip
        assert not may_be_one({one}, {other}), (one, other)


async def test_row_29_the_makers_second_certificate_and_the_owner_of_the_device_decide_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, f"sqlite:///{tmp_path / 'db'}") as engine:
        maker = await officer(engine, "rj-one", account="r.jones")
        other = await officer(engine, "rj-two", account="r.jones")
        _, code = await engine.codes.create(
            template="code", subject=None, sans=(), lifetime=timedelta(days=1), by=maker.actor
        )
        waiting = await engine.enroll(enrollment("code", CodeEvidence(code)))
        assert isinstance(waiting, Pending)
        for person in (maker, other, Person("cli:r.jones")):
            assert await refused(engine, waiting.request_number, person) == {Refusal.NOT_AUTHORISED}
        # a device's account, and the person who has the device
        await engine.seats.create("seated", "alice", owner="r.jones", by="tester")
        _, number = await asked(engine, "seated")
        for person in (maker, other):
            assert await refused(engine, number, person) == {Refusal.NOT_AUTHORISED}
        assert await vote(engine, number, "bob") is RequestState.APPROVED
        # who asks for an operation, by their second certificate
        ask = {"detail": "a key"}
        made = await engine.operations.ask(OperationKind.RECOVER_KEY, "key", ask, reason="x", by=maker)
        with pytest.raises(Rejected, match="their own"):
            await engine.operations.decide(made.number, approved=True, by=other)


@pytest.mark.parametrize("name", ["printer", "printer,O=Example", "printer,O=EXAMPLE"])
async def test_row_29_the_owner_of_a_device_decides_nothing_in_whatever_words_it_asks(
    tmp_path: Path, name: str
) -> None:
    async with opened(tmp_path, f"sqlite:///{tmp_path / 'db'}") as engine:
        owner = await officer(engine, "rj-one", account="r.jones")
        await engine.seats.create("device", "CN=printer,O=Example", owner="r.jones", by="tester")
        _, code = await engine.codes.create(
            template="device", subject=None, sans=(), lifetime=timedelta(days=1), by="admin:carol"
        )
        waiting = await engine.enroll(enrollment("device", CodeEvidence(code), name=name))
        assert isinstance(waiting, Pending)
        assert await refused(engine, waiting.request_number, owner) == {Refusal.NOT_AUTHORISED}
        assert await vote(engine, waiting.request_number, "bob") is RequestState.APPROVED


async def test_row_29_an_officer_who_gives_the_seat_away_still_decides_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, f"sqlite:///{tmp_path / 'db'}") as engine:
        owner = await officer(engine, "rj-one", account="r.jones")
        seat = await engine.seats.create("seated", "alice", owner="r.jones", by="tester")
        request, number = await asked(engine, "seated")
        await engine.seats.change(seat.id, owner="carol", by=owner.actor)
        for person in (owner, "carol"):
            assert await refused(engine, number, person) == {Refusal.NOT_AUTHORISED}
        # put anew under another template, it is still the same person's matter
        await engine.database.write(
            lambda c: templates.put(c, "seated", TEXTS["seated"] + "#", now=engine.clock.now(), expected=1)
        )
        await engine.refresh()
        await engine.seats.change(seat.id, owner="", by=owner.actor)
        assert isinstance(await engine.enroll(request), Pending)
        assert await refused(engine, number, owner) == {Refusal.NOT_AUTHORISED}
        assert await vote(engine, number, "bob") is RequestState.APPROVED


async def test_one_person_with_two_certificates_has_one_vote(tmp_path: Path) -> None:
    async with opened(tmp_path, f"sqlite:///{tmp_path / 'db'}") as engine:
        _, number = await asked(engine)
        one = await officer(engine, "rj-one", account="r.jones")
        two = await officer(engine, "rj-two", account="staff:r.jones")
        assert await vote(engine, number, one) is RequestState.PENDING
        assert await refused(engine, number, two) == {Refusal.CONFLICT}
        assert await refused(engine, number, Person("cli:R.Jones", OFFICERS)) == {Refusal.CONFLICT}
        # not even when the account behind the first vote is another one by now
        await engine.administrators.change("rj-one", "tester", lambda who: attrs.evolve(who, account=None))
        assert await refused(engine, number, "rj-one") == {Refusal.CONFLICT}
        assert await vote(engine, number, "bob") is RequestState.APPROVED


CHANGES: list[Callable[[Administrator], Administrator]] = [
    lambda one: attrs.evolve(one, disabled=True),
    lambda one: attrs.evolve(one, roles=frozenset({Role.OPERATOR})),
    lambda one: attrs.evolve(one, groups=frozenset()),
    lambda one: attrs.evolve(one, templates=frozenset({"one"})),
    lambda one: attrs.evolve(one, authorities=frozenset({"root"})),
]


async def test_a_vote_is_worth_what_its_voter_is_when_it_is_counted(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        for turn, change in enumerate(CHANGES):
            lost = f"lost-{turn}"
            person = await officer(engine, lost)
            request, number = await asked(engine)
            assert await vote(engine, number, person) is RequestState.PENDING
            await engine.administrators.change(lost, "tester", change)
            assert await refused(engine, number, person, approved=False) >= {Refusal.NOT_AUTHORISED}
            assert await vote(engine, number, "bob") is RequestState.PENDING, "one of the two is gone"
            assert isinstance(await engine.enroll(request), Pending)
            assert await vote(engine, number, "carol") is RequestState.APPROVED
            assert isinstance(await engine.enroll(request), IssuedCertificate)


async def test_an_approval_whose_voter_was_removed_before_the_client_came_waits_again(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        request, number = await asked(engine)
        for name in ("bob", "carol"):
            await vote(engine, number, name)
        await engine.administrators.delete("carol", by="tester")
        assert isinstance(await engine.enroll(request), Pending)
        assert (await engine.approvals.get(number)).state is RequestState.PENDING
        assert await vote(engine, number, "dave") is RequestState.APPROVED
        assert isinstance(await engine.enroll(request), IssuedCertificate)
        # what has been issued is not undone by it
        await engine.administrators.delete("dave", by="tester")
        assert isinstance(await engine.enroll(request), IssuedCertificate)


async def test_who_has_a_removed_administrators_name_later_has_not_voted_nor_asked(tmp_path: Path, url: str) -> None:
    clock = FakeClock()
    async with opened(tmp_path, url, clock) as engine:
        request, number = await asked(engine, "long")
        made = await engine.operations.ask(
            OperationKind.RECOVER_KEY, "key", {"detail": "a key"}, reason="x", by=await officer(engine, "erin")
        )
        await vote(engine, number, "bob")
        clock.advance(timedelta(days=1))
        for name in ("bob", "erin"):
            await engine.administrators.delete(name, by="tester")
            await officer(engine, name)
        assert await vote(engine, number, "carol") is RequestState.PENDING, "the other bob agreed, and is gone"
        assert await vote(engine, number, "dave") is RequestState.APPROVED
        assert isinstance(await engine.enroll(request), IssuedCertificate)
        with pytest.raises(Rejected, match="another administrator by now"):
            await engine.operations.decide(made.number, approved=True, by=Person("admin:carol"))


async def test_who_has_a_removed_administrators_name_later_votes_once(tmp_path: Path, url: str) -> None:
    """The vote of the one before, which counted no more, left no room for theirs."""
    clock = FakeClock()
    async with opened(tmp_path, url, clock) as engine:
        request, number = await asked(engine, "long")
        await vote(engine, number, "bob")
        clock.advance(timedelta(days=1))
        await engine.administrators.delete("bob", by="tester")
        await officer(engine, "bob")
        assert await vote(engine, number, "bob") is RequestState.PENDING
        assert [one.at for one in await engine.approvals.votes_on(number)] == [clock.now()]
        assert await refused(engine, number, "bob") == {Refusal.CONFLICT}
        assert await refused(engine, number, Person("cli:bob", OFFICERS)) == {Refusal.CONFLICT}
        assert await vote(engine, number, "carol") is RequestState.APPROVED
        assert isinstance(await engine.enroll(request), IssuedCertificate)


async def test_a_request_whose_time_ends_between_two_votes_is_over(tmp_path: Path, url: str) -> None:
    clock = FakeClock()
    async with opened(tmp_path, url, clock) as engine:
        request, number = await asked(engine)
        clock.advance(timedelta(minutes=59))
        assert await vote(engine, number, "bob") is RequestState.PENDING
        clock.advance(timedelta(minutes=2))
        assert await refused(engine, number, "carol") == {Refusal.CONFLICT}
        again = await engine.enroll(request)
        assert isinstance(again, Pending)
        assert again.request_number != number
        # the first vote was on another
        assert await vote(engine, again.request_number, "carol") is RequestState.PENDING
        assert (await engine.approvals.get(number)).state is RequestState.EXPIRED


async def test_nothing_is_done_for_an_asker_who_may_not_ask_any_more(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        ada = await officer(engine, "ada", Role.ADMINISTRATOR)
        adam = await officer(engine, "adam", Role.ADMINISTRATOR)
        toml = {"toml": TEXTS["one"].replace('"90d"', '"30d"')}
        kind = OperationKind.CHANGE_TEMPLATE
        asked_for = await engine.dual_control.ask(kind, "one", toml, reason="shorter", by=ada)
        await engine.administrators.change("ada", "tester", lambda one: attrs.evolve(one, disabled=True))
        with pytest.raises(Rejected, match="not for admin:ada to ask"):
            await engine.dual_control.decide(asked_for.number, approved=True, by=adam)
        assert (await engine.operations.get(asked_for.number)).row.state is OperationState.PENDING
        bob = (await engine.administrators.get("bob")).person
        with pytest.raises(Rejected, match="not for admin:bob to ask"):
            await engine.dual_control.ask(kind, "one", toml, reason="shorter", by=bob)


@pytest.mark.parametrize("role", [Role.AUDITOR, Role.OPERATOR, Role.ADMINISTRATOR])
async def test_row_29_a_role_counts_at_the_command_line_too(tmp_path: Path, role: Role) -> None:
    async with opened(tmp_path, f"sqlite:///{tmp_path / 'db'}") as engine:
        _, number = await asked(engine, "one")
        person = await officer(engine, "somebody", role)
        assert await refused(engine, number, person) == {Refusal.NOT_AUTHORISED}
