"""Seats: limits that hold however many ask at once, and devices that are learned once, always or never."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, DeferredList

from pkiserver.authority.requests import (
    ClientCertificateEvidence,
    CodeEvidence,
    Device,
    EnrollmentRequest,
    IssuedCertificate,
    OperatorEvidence,
    PasswordEvidence,
)
from pkiserver.foundation.errors import Reason, Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration.approvals import Pending
from pkiserver.registration.codes import parse_subject
from pkiserver.registration.slots import choose, device_reasons
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.store import certificates
from pkiserver.store.certificates import CertificateState
from pkiserver.store.registration.seats import Slot, SlotMode
from tests.support.clock import FakeClock
from tests.support.engines import engine_with, enrollment, template_text

PASSWORD = '[[evidence]]\nall = ["password"]\n[[evidence]]\nall = ["code"]\n'
APPROVED = '[[evidence]]\nall = ["password"]\napproval = true\n'
SLOTS = 'slots = ["learn_once", "learn_once", "locked"]\ndevice_required = true\nlearn_once_window = "1h"\n'
TEXTS = {
    "device": template_text("device", PASSWORD, f"[seats]\nenabled = true\n{SLOTS}"),
    "few": template_text("few", PASSWORD, "[seats]\nenabled = true\nlimit = 2\ncertificates = 1\n"),
    "graceful": template_text("graceful", PASSWORD, "[seats]\nenabled = true\ncertificates = 1\n").replace(
        'window = "120d"', 'window = "120d"\ngrace = "30d"'
    ),
    "decided": template_text("decided", APPROVED, "[seats]\nenabled = true\nlimit = 1\ncertificates = 1\n"),
    "known": template_text("known", PASSWORD, "[seats]\nenabled = true\nlearn = false\n"),
}
FIXED = '[[subject.parts]]\nattribute = "organization"\nfrom = "fixed"\nvalue = "Example"\n'
CODES = '[[evidence]]\nall = ["code"]\n'
GOOD = Secret("a long password")
NOW = datetime.fromisoformat("2026-11-21T12:00:00+00:00")


async def with_accounts(engine: Engine, *names: str) -> None:
    for name in names:
        await engine.accounts.create(name, GOOD, by="tester")


def asked(template: str, account: str, device: Device | None = None) -> EnrollmentRequest:
    request = enrollment(template, PasswordEvidence(account, GOOD), name=account)
    return attrs.evolve(request, device=device)


async def with_code(engine: Engine, name: str, hosts: tuple[str, ...] = ()) -> EnrollmentRequest:
    """A request with a fresh code that is bound to nobody."""
    _, code = await engine.codes.create(template="few", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester")
    return enrollment("few", CodeEvidence(code), name=name, hosts=hosts)


def without_subject(request: EnrollmentRequest) -> EnrollmentRequest:
    return attrs.evolve(request, wishes=attrs.evolve(request.wishes, subject=None))


async def refused(engine: Engine, request: EnrollmentRequest) -> set[Refusal]:
    with pytest.raises(Rejected) as caught:
        await engine.enroll(request)
    return {reason.code for reason in caught.value.reasons}


async def test_devices_are_learned_and_then_kept_to(tmp_path: Path) -> None:
    clock = FakeClock()
    async with engine_with(tmp_path, TEXTS, clock=clock) as engine:
        await with_accounts(engine, "alice")
        first, second, third = (Device(f"CS-{letter * 64}", f"laptop {letter}") for letter in "abc")
        assert await refused(engine, asked("device", "alice")) == {Refusal.NOT_AUTHORISED}
        assert await refused(engine, asked("device", "alice", Device("\n"))) == {Refusal.MALFORMED}
        assert await engine.seats.search() == ()
        assert isinstance(await engine.enroll(asked("device", "alice", first)), IssuedCertificate)
        assert isinstance(await engine.enroll(asked("device", "alice", second)), IssuedCertificate)
        assert await refused(engine, asked("device", "alice", third)) == {Refusal.NOT_AUTHORISED}
        lower = attrs.evolve(first, signature=first.signature.lower())
        assert isinstance(await engine.enroll(asked("device", "alice", lower)), IssuedCertificate)
        [seat] = await engine.seats.search(template="device", identity="alice")
        detail = await engine.seats.detail(seat.id)
        assert [slot.device for slot in detail.slots] == ["laptop a", "laptop b", ""]
        assert [one.slot for one in detail.certificates] == [1, 2, 1]
        # an operator resets a slot: it learns for fifteen minutes
        await engine.seats.set_slot(seat.id, 2, SlotMode.LEARN_ONCE, forget=True, by="admin:olga")
        clock.advance(timedelta(minutes=16))
        assert await refused(engine, asked("device", "alice", third)) == {Refusal.NOT_AUTHORISED}
        await engine.seats.set_slot(seat.id, 2, SlotMode.LEARN_ONCE, by="admin:olga")
        clock.advance(timedelta(minutes=14))
        assert isinstance(await engine.enroll(asked("device", "alice", third)), IssuedCertificate)
        assert await refused(engine, asked("device", "alice", second)) == {Refusal.NOT_AUTHORISED}
        history = [event.what for event in (await engine.seats.detail(seat.id)).events]
        assert history[:2] == ["slot 2 learned device laptop c", "slot 2 learn_once"]
        await engine.seats.set_archived(seat.id, True, by="admin:olga")
        assert await refused(engine, asked("device", "alice", first)) == {Refusal.NOT_AUTHORISED}


async def test_limits_hold_when_many_ask_at_once(tmp_path: Path, url: str) -> None:
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        names = ("alice", "bob", "carol", "dave")
        await with_accounts(engine, *names)
        tries = [Deferred.fromCoroutine(engine.enroll(asked("few", name))) for name in names for _ in range(3)]
        results = await DeferredList(tries, consumeErrors=True)
        assert sum(fine for fine, _ in results) == 2  # two seats, and one certificate each
        for fine, failure in results:
            assert fine or failure.value.has(Refusal.LIMIT)
        assert len(await engine.seats.search(template="few")) == 2


async def test_limits_hold_when_two_processes_are_asked_at_once(tmp_path: Path, url: str) -> None:
    rules = "[seats]\nenabled = true\ncertificates = 2\n"
    async with (
        engine_with(tmp_path, {"few": template_text("few", PASSWORD, rules)}, url=url) as one,
        open_engine(one.settings, worker="1") as two,
    ):
        for number in range(12):
            await with_accounts(one, name := f"user-{number}")
            tries = [Deferred.fromCoroutine(engine.enroll(asked("few", name))) for engine in (one, two) * 4]
            results = await DeferredList(tries, consumeErrors=True)
            assert all(fine or failure.value.has(Refusal.LIMIT) for fine, failure in results)
            assert sum(fine for fine, _ in results) == 2


async def test_one_identity_has_a_seat_under_each_template(tmp_path: Path, url: str) -> None:
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        await with_accounts(engine, "alice")
        for template in ("few", "graceful"):
            assert isinstance(await engine.enroll(asked(template, "alice")), IssuedCertificate)
        seats = await engine.seats.search(identity="alice")
        assert sorted(seat.template for seat in seats) == ["few", "graceful"]
        with pytest.raises(Rejected, match="alice has a seat under template few already"):
            await engine.seats.create("few", "alice", by="admin:olga")


async def test_a_subject_too_long_for_a_seat_is_refused_and_not_put_off(tmp_path: Path, url: str) -> None:
    """PostgreSQL's index takes no such identity: the client was told to come again, for ever."""
    units = '[[subject.parts]]\nattribute = "organizational_unit"\nfrom = "request"\nmax = 20\n'
    long = template_text("few", CODES, f"[seats]\nenabled = true\n{units}")
    async with engine_with(tmp_path, {"few": long}, url=url) as engine:
        units = "".join(f",OU={sha256(bytes([number])).hexdigest()}" for number in range(20))
        _, code = await engine.codes.create(
            template="few", subject=None, sans=(), lifetime=timedelta(hours=1), by="tester"
        )
        assert await refused(engine, enrollment("few", CodeEvidence(code), name=f"x{units}")) == {Refusal.LIMIT}
        assert await engine.seats.search() == ()
        assert isinstance(await engine.enroll(enrollment("few", CodeEvidence(code), name="x")), IssuedCertificate)


@pytest.mark.parametrize("others", ["refuse", "ignore"])
async def test_who_shows_no_name_gets_no_second_seat_by_asking_in_other_words(
    tmp_path: Path, url: str, others: str
) -> None:
    """What counts is whom the certificate is for, not what the request says beside that."""
    text = template_text(
        "few", CODES, f'[seats]\nenabled = true\ncertificates = 1\n[subject]\nothers = "{others}"\n{FIXED}'
    )
    async with engine_with(tmp_path, {"few": text}, url=url) as engine:
        assert isinstance(await engine.enroll(await with_code(engine, "printer")), IssuedCertificate)
        for name in ("printer", "printer,O=Example", "printer,O=EXAMPLE", *(["printer,OU=x"] * (others == "ignore"))):
            assert await refused(engine, await with_code(engine, name)) == {Refusal.LIMIT}, name
        [seat] = await engine.seats.search()
        assert seat.identity == "CN=printer,O=Example"


async def test_devices_without_a_subject_have_a_seat_each(tmp_path: Path) -> None:
    text = template_text("few", CODES, "[seats]\nenabled = true\ncertificates = 1\n[sans]\nmin = 1\n").replace(
        "required = true\n[[sans", "[[sans"
    )
    async with engine_with(tmp_path, {"few": text}) as engine:
        for host in ("a.example.org", "b.example.org"):
            request, other = [await with_code(engine, "x", hosts=(host,)) for _ in range(2)]
            assert isinstance(await engine.enroll(without_subject(request)), IssuedCertificate)
            assert await refused(engine, without_subject(other)) == {Refusal.LIMIT}
        assert {one.identity for one in await engine.seats.search()} == {"dns:a.example.org", "dns:b.example.org"}


async def test_a_device_without_a_subject_may_have_more_names_than_an_index_takes(tmp_path: Path, url: str) -> None:
    text = template_text("few", CODES, "[seats]\nenabled = true\ncertificates = 1\n[sans]\nmin = 1\n").replace(
        "required = true\n[[sans", "[[sans"
    )
    async with engine_with(tmp_path, {"few": text}, url=url) as engine:
        for last in "ab":
            hosts = tuple(f"host-{number}.{'x' * 60}.{last}.example.org" for number in range(16))
            request, other = [await with_code(engine, "x", hosts=hosts) for _ in range(2)]
            assert isinstance(await engine.enroll(without_subject(request)), IssuedCertificate)
            assert await refused(engine, without_subject(other)) == {Refusal.LIMIT}


async def test_what_an_operator_enrols_is_in_the_devices_seat_and_not_the_operators(tmp_path: Path) -> None:
    text = template_text("few", '[[evidence]]\nall = ["operator"]\n', "[seats]\nenabled = true\ncertificates = 1\n")
    async with engine_with(tmp_path, {"few": text}) as engine:
        for name in ("one", "two"):
            made = await engine.enroll(enrollment("few", OperatorEvidence("root"), name=name, protocol="cli"))
            assert isinstance(made, IssuedCertificate)
        assert {one.identity for one in await engine.seats.search()} == {"CN=one", "CN=two"}


async def test_a_seat_is_taken_back_within_the_limit_only(tmp_path: Path, url: str) -> None:
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        first, _ = [await engine.seats.create("few", name, by="admin:olga") for name in ("alice", "bob")]
        with pytest.raises(Rejected, match="template few has its 2 seats already"):
            await engine.seats.create("few", "carol", by="admin:olga")
        await engine.seats.set_archived(first.id, True, by="admin:olga")
        await engine.seats.create("few", "carol", by="admin:olga")
        with pytest.raises(Rejected, match="template few has its 2 seats already"):
            await engine.seats.set_archived(first.id, False, by="admin:olga")
        assert (await engine.seats.get(first.id)).archived


async def test_a_renewal_stays_in_its_seat_and_does_not_count_twice(tmp_path: Path) -> None:
    async with engine_with(tmp_path, TEXTS) as engine:
        key = ec.generate_private_key(ec.SECP256R1())
        _, code = await engine.codes.create(
            template="few", subject=parse_subject("CN=printer"), sans=(), lifetime=timedelta(hours=1), by="tester"
        )
        made = await engine.enroll(enrollment("few", CodeEvidence(code), name="printer", key=key))
        assert isinstance(made, IssuedCertificate)
        shown = ClientCertificateEvidence(made.der)
        renewal = enrollment("few", shown, name="printer", key=key, renewal_of=made.der)
        assert isinstance(await engine.enroll(renewal), IssuedCertificate)
        [seat] = await engine.seats.search(template="few")
        assert seat.identity == "CN=printer"
        assert len((await engine.seats.detail(seat.id)).certificates) == 2


async def test_a_renewal_of_what_counts_no_more_takes_no_place_beside_another(tmp_path: Path, url: str) -> None:
    clock = FakeClock()
    async with engine_with(tmp_path, TEXTS, url=url, clock=clock) as engine:
        await with_accounts(engine, "alice")
        old = await engine.enroll(asked("graceful", "alice"))
        assert isinstance(old, IssuedCertificate)
        clock.advance(timedelta(days=95))
        current = await engine.enroll(asked("graceful", "alice"))
        assert isinstance(current, IssuedCertificate)
        shown = [
            enrollment("graceful", ClientCertificateEvidence(one.der), name="alice", renewal_of=one.der)
            for one in (old, current)
        ]
        assert await refused(engine, shown[0]) == {Refusal.LIMIT}
        assert isinstance(await engine.enroll(shown[1]), IssuedCertificate)


async def test_what_is_superseded_leaves_its_place_in_the_seat(tmp_path: Path, url: str) -> None:
    """A device that has lost its key enrols anew: the template says that the old certificate is revoked then."""
    text = template_text(
        "few", PASSWORD, '[seats]\nenabled = true\ncertificates = 1\n[duplicates]\nsame_subject = "supersede"\n'
    )
    async with engine_with(tmp_path, {"few": text}, url=url) as engine:
        await with_accounts(engine, "alice")
        for _ in range(2):
            assert isinstance(await engine.enroll(asked("few", "alice")), IssuedCertificate)
        # the one that it supersedes is of another subject: it stays, and so does its place
        assert await refused(engine, attrs.evolve(asked("few", "alice"), wishes=asked("few", "bob").wishes)) == {
            Refusal.LIMIT
        }
        tries = [Deferred.fromCoroutine(engine.enroll(asked("few", "alice"))) for _ in range(4)]
        results = await DeferredList(tries, consumeErrors=True)
        assert all(fine or failure.check(Unavailable) for fine, failure in results)  # while another is being made
        [seat] = await engine.seats.search()
        kept = (await engine.seats.detail(seat.id)).certificates
        states = [
            await engine.database.read(partial(certificates.state_of, certificate_id=one.certificate_id))
            for one in kept
        ]
        assert states.count(CertificateState.ISSUED) == 1
        assert states[0] is CertificateState.ISSUED


async def test_seats_that_are_not_learned_are_made_by_hand(tmp_path: Path) -> None:
    async with engine_with(tmp_path, TEXTS) as engine:
        await with_accounts(engine, "alice", "bob")
        assert await refused(engine, asked("known", "alice")) == {Refusal.NOT_AUTHORISED}
        seat = await engine.seats.create("known", "alice", owner="bob", by="admin:olga")
        assert isinstance(await engine.enroll(asked("known", "alice")), IssuedCertificate)
        await engine.seats.change(seat.id, metadata=(("room", "4.12"),), by="admin:olga")
        await engine.seats.change(seat.id, owner="carol", by="admin:olga")
        found = await engine.seats.get(seat.id)
        assert (found.owner, found.metadata) == ("carol", (("room", "4.12"),))
        assert found.first_success is not None
        with pytest.raises(Rejected, match="has a seat"):
            await engine.seats.create("known", "alice", by="admin:olga")


ONCE, ALWAYS, LOCKED = SlotMode.LEARN_ONCE, SlotMode.LEARN_ALWAYS, SlotMode.LOCKED
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("slots", "first_success", "expected"),
    [
        ((Slot(1, ONCE),), None, 1),
        ((Slot(1, ONCE, signature="other"),), None, None),
        ((Slot(1, ONCE, signature="other"), Slot(2, ONCE)), NOW - HOUR / 2, 2),
        ((Slot(1, ONCE, signature="other"), Slot(2, ONCE)), NOW - 2 * HOUR, None),
        ((Slot(1, ONCE, open_until=NOW + HOUR),), NOW - 2 * HOUR, 1),
        ((Slot(1, ONCE, open_until=NOW - HOUR),), None, None),
        ((Slot(1, LOCKED), Slot(2, LOCKED, signature="mine")), NOW, 2),
        ((Slot(1, LOCKED),), None, None),
        ((Slot(1, ALWAYS, signature="other", last_used=NOW), Slot(2, ALWAYS)), NOW, 2),
        (
            (
                Slot(1, ALWAYS, signature="other", last_used=NOW),
                Slot(2, ALWAYS, signature="old", last_used=NOW - HOUR),
            ),
            NOW,
            2,
        ),
        ((Slot(1, ALWAYS), Slot(2, ONCE)), None, 2),
        ((), None, None),
    ],
)
def test_which_slot_takes_a_device(
    slots: tuple[Slot, ...], first_success: datetime | None, expected: int | None
) -> None:
    found = choose(slots, Device("MINE"), first_success=first_success, window=HOUR, now=NOW)
    if expected is None:
        assert isinstance(found, Reason)
    else:
        assert isinstance(found, Slot)
        assert (found.number, found.signature, found.last_used) == (expected, "mine", NOW)


def test_a_slot_that_was_opened_stays_open_where_no_certificate_came_of_it() -> None:
    opened = Slot(1, ONCE, open_until=NOW + HOUR)
    earlier = NOW - 10 * HOUR
    learned = choose((opened,), Device("CS-1"), first_success=earlier, window=HOUR, now=NOW)
    assert isinstance(learned, Slot)
    # as it is when the certificate's intent is given up
    again = attrs.evolve(learned, signature=None, learned=None, last_used=None)
    assert isinstance(choose((again,), Device("CS-1"), first_success=earlier, window=HOUR, now=NOW), Slot)
    assert not isinstance(choose((learned,), Device("CS-2"), first_success=earlier, window=HOUR, now=NOW), Slot)


async def test_what_is_written_about_a_seat_is_bounded_whoever_writes_it(tmp_path: Path) -> None:
    async with engine_with(tmp_path, TEXTS) as engine:
        seat = await engine.seats.create("device", "carol", owner="ruth", by="admin:olga")
        for odd in ("x" * 257, "two\nlines"):
            with pytest.raises(Rejected, match="an owner is a name"):
                await engine.seats.change(seat.id, owner=odd, by="admin:olga")
            with pytest.raises(Rejected, match="a device's name"):
                await engine.seats.set_slot(seat.id, 1, SlotMode.LOCKED, device=odd, by="admin:olga")
        twice = (("room", "1"), ("room", "2"))
        with pytest.raises(Rejected, match="stands twice"):
            await engine.seats.change(seat.id, owner="olga", metadata=twice, by="admin:olga")
        assert (await engine.seats.get(seat.id)).owner == "ruth"


def test_a_devices_name_is_one_line() -> None:
    assert [one.code for one in device_reasons(Device("CS-1", "laptop\nslot 2 learned device x"))] == [
        Refusal.MALFORMED
    ]


async def test_officers_are_shown_whether_the_seat_would_take_it(tmp_path: Path, url: str) -> None:
    async with engine_with(tmp_path, TEXTS, url=url) as engine:
        await with_accounts(engine, "alice", "bob", "carol")

        async def shown(account: str, request: EnrollmentRequest | None = None) -> tuple[int, str]:
            waiting = await engine.enroll(request or asked("decided", account))
            assert isinstance(waiting, Pending)
            return waiting.request_number, (await engine.approvals.get(waiting.request_number)).checks[-1]

        first = asked("decided", "alice")
        number, said = await shown("alice", first)
        assert said == "seat: would take it"
        assert await engine.seats.search() == (), "nothing is made by asking"
        await engine.approvals.decide(number, approved=True, by="officer")
        assert isinstance(await engine.enroll(first), IssuedCertificate)
        _, said = await shown("alice")  # for another key
        assert "refused as things are: the seat has 1 valid certificate(s), and the template allows 1" in said
        _, said = await shown("bob")
        assert "template decided has its 1 seats already" in said
        [seat] = await engine.seats.search()
        await engine.seats.set_archived(seat.id, True, by="admin:olga")
        assert (await shown("carol"))[1] == "seat: would take it"
