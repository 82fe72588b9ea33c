"""What changed between a request and the officers' approval, or between that and the client's next question."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from sqlalchemy import select, update

from pkiserver.authority.lifecycle.ceremonies import KeyChoice
from pkiserver.authority.requests import (
    ClientCertificateEvidence,
    CodeEvidence,
    EnrollmentRequest,
    IssuedCertificate,
    PasswordEvidence,
    ProofKind,
    ProofOfPossession,
    ResumedEvidence,
)
from pkiserver.authority.revocation import ByFingerprint, Order
from pkiserver.foundation.errors import Refusal, Rejected
from pkiserver.foundation.secret import Secret
from pkiserver.keys.algorithms import KeyType
from pkiserver.registration.approvals import Pending
from pkiserver.runtime.engine import Engine
from pkiserver.store.authority import templates
from pkiserver.store.certificates import RevocationReason
from pkiserver.store.registration.requests import RequestState
from pkiserver.store.schema.audit import audit_event
from pkiserver.store.schema.authorities import config_object
from pkiserver.store.schema.registration import enroll_code
from tests.support.clock import FakeClock
from tests.support.engines import ACTOR, engine_with, enrollment, template_text

PASSWORD = '[[evidence]]\nall = ["password"]\ngroups = ["staff"]\napproval = true\n'
CODE = '[[evidence]]\nall = ["code"]\napproval = true\n[[evidence]]\nall = ["password"]\n'
CERTIFICATE = '[[evidence]]\nall = ["client_certificate"]\n'
TEXTS = {
    "held": template_text("held", PASSWORD),
    "code": template_text("code", CODE),
    "certified": template_text("certified", CERTIFICATE),
}
GOOD = Secret("a long password")
STAFF = frozenset({"staff"})
ALICE = PasswordEvidence("alice", GOOD)


@asynccontextmanager
async def opened(folder: Path, url: str | None = None, clock: FakeClock | None = None) -> AsyncIterator[Engine]:
    async with engine_with(folder, TEXTS, url=url, clock=clock) as engine:
        await engine.accounts.create("alice", GOOD, groups=STAFF, by="tester")
        yield engine


async def asked(engine: Engine, name: str = "device-1", *, approved: bool = False) -> tuple[EnrollmentRequest, int]:
    request = enrollment("held", ALICE, name=name)
    pending = await engine.enroll(request)
    assert isinstance(pending, Pending)
    if approved:
        await approve(engine, pending.request_number)
    return request, pending.request_number


async def approve(engine: Engine, number: int) -> RequestState:
    return (await engine.approvals.decide(number, approved=True, by="officer")).state


async def refused(engine: Engine, request: EnrollmentRequest) -> set[Refusal]:
    with pytest.raises(Rejected) as caught:
        await engine.enroll(request)
    return {reason.code for reason in caught.value.reasons}


async def change(engine: Engine, *edits: tuple[str, str], name: str = "held") -> None:
    """Edit the template's text; running servers take it up."""
    now = engine.clock.now()
    row = await engine.database.read(lambda connection: templates.get(connection, name))
    assert row is not None
    text = row.toml
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    await engine.database.write(
        lambda connection: templates.put(connection, name, text, now=now, expected=row.revision)
    )
    await engine.refresh()
    assert engine.templates.problems() == ()


async def test_a_changed_template_is_voted_on_anew(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        for approved in (False, True):
            request, number = await asked(engine, f"device-{approved}", approved=approved)
            await change(
                engine, ('duration = "', 'duration = "1'), ("approval = true", "approval = true\napprovals = 2")
            )
            if not approved:
                with pytest.raises(Rejected, match="was changed since"):
                    await approve(engine, number)
            before = (await engine.approvals.get(number)).checks
            again = await engine.enroll(request)
            assert again == Pending(number)
            waiting = await engine.approvals.get(number)
            assert (waiting.state, waiting.needed) == (RequestState.PENDING, 2)
            assert waiting.checks != before, "officers see what the certificate would say now"
            assert await engine.approvals.votes_on(number) == ()
            assert await approve(engine, number) is RequestState.PENDING
            assert (await engine.approvals.decide(number, approved=True, by="other")).state is RequestState.APPROVED
            assert isinstance(await engine.enroll(request), IssuedCertificate)
            await change(engine, ("\napprovals = 2", ""))
            # what was issued is answered as before: the same certificate
            assert isinstance(await engine.enroll(request), IssuedCertificate)
        events = await engine.database.read(lambda c: c.execute(select(audit_event.c.details)).scalars().all())
        assert sum("the template was changed" in str(one) for one in events) == 2


async def test_a_template_with_another_issuer_gives_nothing_that_officers_did_not_see(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        request, number = await asked(engine, approved=True)
        await change(engine, ('issuer = "issuing"', 'issuer = "root"'))
        assert await engine.enroll(request) == Pending(number)
        await approve(engine, number)
        made = await engine.enroll(request)
        assert isinstance(made, IssuedCertificate)
        assert made.authority == "root"


@pytest.mark.parametrize(
    ("edit", "code"),
    [(('keys = ["ec-p256"]', 'keys = ["ec-p384"]'), Refusal.BAD_KEY),
     (('protocols = ["est", "cli"]', 'protocols = ["cli"]'), Refusal.NOT_AUTHORISED),
     (('name = "held"', 'name = "held"\nenabled = false'), Refusal.NOT_AUTHORISED),
     (('groups = ["staff"]', 'groups = ["managers"]'), Refusal.NOT_AUTHORISED),
     (('all = ["password"]', 'all = ["code"]'), Refusal.NOT_AUTHENTICATED)],
)  # fmt: skip
async def test_a_stricter_template_refuses_what_was_approved(
    tmp_path: Path, edit: tuple[str, str], code: Refusal
) -> None:
    async with opened(tmp_path) as engine:
        request, number = await asked(engine, approved=True)
        waiting, other = await asked(engine, "device-2")
        await change(engine, edit)
        for one in (request, waiting):
            assert code in await refused(engine, one)
        with pytest.raises(Rejected, match="was changed since"):
            await approve(engine, other)
        assert (await engine.approvals.get(number)).certificate_id is None


async def test_an_approval_for_a_template_that_is_gone_brings_nothing(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        request, _ = await asked(engine, approved=True)
        _, waiting = await asked(engine, "device-2")
        await engine.database.write(lambda connection: templates.remove(connection, "held", expected=1))
        await engine.refresh()
        assert await refused(engine, request) == {Refusal.UNKNOWN_TEMPLATE}
        with pytest.raises(Rejected):
            await approve(engine, waiting)


async def test_a_template_changed_while_the_certificate_is_made_stops_it(tmp_path: Path, url: str) -> None:
    """The gate has said yes under the old template; the database has the new one by the time that it counts."""
    async with opened(tmp_path, url) as engine:
        request, number = await asked(engine, approved=True)
        decision = await engine.gate.decide(request)
        assert not isinstance(decision, Pending)
        changed = update(config_object).values(toml=TEXTS["held"] + "\n# stricter\n")
        await engine.database.write(lambda c: c.execute(changed).rowcount)
        with pytest.raises(Rejected, match="changed since officers agreed"):
            await engine.road.prepare(decision)  # type: ignore[arg-type]
        assert (await engine.approvals.get(number)).state is RequestState.APPROVED
        assert await engine.enroll(request) == Pending(number)


async def revoke_issuer(engine: Engine) -> None:
    mark = x509.load_der_x509_certificate(engine.authorities.get("issuing").current.certificate.der)
    order = Order("tester", approved_by="other")
    selector = ByFingerprint(mark.fingerprint(hashes.SHA256()))
    await engine.status.revocations.revoke(selector, RevocationReason.CA_COMPROMISE, order)
    await engine.refresh()


async def test_a_revoked_authority_issues_nothing_that_was_approved(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        request, number = await asked(engine, approved=True)
        await revoke_issuer(engine)
        with pytest.raises(Rejected, match="certificate of authority issuing is revoked"):
            await engine.enroll(request)
        assert (await engine.approvals.get(number)).certificate_id is None


async def test_an_authority_with_a_new_key_issues_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as engine:
        request, _ = await asked(engine, approved=True)
        key = KeyChoice(name="second", key_type=KeyType.parse("ec-p256"), store="software")
        await engine.road.succession.rekey("issuing", key, ACTOR)
        await engine.refresh()
        made = await engine.enroll(request)
        assert isinstance(made, IssuedCertificate)
        current = engine.authorities.get("issuing").current
        assert current.number == 2
        x509.load_der_x509_certificate(made.der).verify_directly_issued_by(
            x509.load_der_x509_certificate(current.certificate.der)
        )


async def disable(engine: Engine) -> None:
    await engine.accounts.set_disabled("alice", True, by="tester")


async def delete(engine: Engine) -> None:
    await engine.accounts.delete("alice", by="tester")


async def leave(engine: Engine) -> None:
    await engine.accounts.set_details("alice", groups=frozenset(), attributes=None, by="tester")


async def new_password(engine: Engine) -> None:
    await engine.accounts.set_password("alice", Secret("another long password"), by="tester")


@pytest.mark.parametrize("lose", [disable, delete, leave, new_password])
async def test_an_account_that_lost_what_it_had_gets_nothing(
    tmp_path: Path, lose: Callable[[Engine], Awaitable[None]]
) -> None:
    async with opened(tmp_path) as engine:
        request, number = await asked(engine, approved=True)
        await lose(engine)
        assert await refused(engine, request) <= {Refusal.NOT_AUTHENTICATED, Refusal.NOT_AUTHORISED}
        assert (await engine.approvals.get(number)).certificate_id is None


async def test_a_code_that_was_spent_or_withdrawn_elsewhere_meanwhile_brings_nothing(tmp_path: Path, url: str) -> None:
    async with opened(tmp_path, url) as engine:
        for how in ("spent", "withdrawn", "expired"):
            lifetime = timedelta(days=1)
            number, code = await engine.codes.create(template="code", subject=None, sans=(), lifetime=lifetime, by="x")
            request = enrollment("code", CodeEvidence(code), name=how)
            pending = await engine.enroll(request)
            assert isinstance(pending, Pending)
            await approve(engine, pending.request_number)
            if how == "spent":
                other = enrollment("code", CodeEvidence(code), name="other")
                second = await engine.enroll(other)
                assert isinstance(second, Pending)
                await approve(engine, second.request_number)
                assert isinstance(await engine.enroll(other), IssuedCertificate)
            elif how == "withdrawn":
                assert await engine.codes.withdraw(number, by="tester")
            else:
                past = update(enroll_code).where(enroll_code.c.id == number).values(expires=1)
                await engine.database.write(lambda c, p=past: c.execute(p).rowcount)
            assert await refused(engine, request) <= {Refusal.NOT_AUTHENTICATED, Refusal.NOT_AUTHORISED}, how
            assert (await engine.approvals.get(pending.request_number)).certificate_id is None


async def test_a_code_that_is_made_later_does_not_serve_whoever_waits_with_a_withdrawn_one(
    tmp_path: Path, url: str
) -> None:
    """A poll knows the code by its number alone."""
    async with opened(tmp_path, url) as engine:
        day = timedelta(days=1)
        number, code = await engine.codes.create(template="code", subject=None, sans=(), lifetime=day, by="ruth")
        request = enrollment("code", CodeEvidence(code), name="leaked")
        pending = await engine.enroll(request)
        assert isinstance(pending, Pending)
        await approve(engine, pending.request_number)
        assert await engine.codes.withdraw(number, by="ruth")
        other, _ = await engine.codes.create(template="code", subject=None, sans=(), lifetime=day, by="rolf")
        polls = attrs.evolve(request, evidence=(ResumedEvidence(f"enroll-code:{number}"),))
        assert await refused(engine, polls) <= {Refusal.NOT_AUTHENTICATED, Refusal.NOT_AUTHORISED}
        unspent = await engine.codes.get(other)
        assert unspent is not None
        assert unspent.spent_at is None


@pytest.mark.parametrize("lose", [disable, delete])
async def test_a_certificate_is_not_renewed_for_an_account_that_is_gone(
    tmp_path: Path, lose: Callable[[Engine], Awaitable[None]]
) -> None:
    async with opened(tmp_path) as engine:
        made = await engine.enroll(enrollment("code", ALICE))
        assert isinstance(made, IssuedCertificate)
        own = ClientCertificateEvidence(made.der)
        assert isinstance(await engine.enroll(enrollment("code", own, renewal_of=made.der)), IssuedCertificate)
        await lose(engine)
        assert await refused(engine, enrollment("code", own, renewal_of=made.der)) == {Refusal.NOT_AUTHORISED}
        shown = enrollment("certified", own)
        assert Refusal.NOT_AUTHORISED in await refused(engine, shown)


async def test_a_certificate_shows_nobody_to_whom_the_name_of_its_account_was_given_later(tmp_path: Path) -> None:
    clock = FakeClock()
    async with opened(tmp_path, clock=clock) as engine:
        made = await engine.enroll(enrollment("code", ALICE))
        assert isinstance(made, IssuedCertificate)
        clock.advance(timedelta(days=7))
        await engine.accounts.delete("alice", by="tester")
        await engine.accounts.create("alice", GOOD, groups=STAFF, by="tester")
        own = ClientCertificateEvidence(made.der)
        assert await refused(engine, enrollment("code", own, renewal_of=made.der)) == {Refusal.NOT_AUTHORISED}
        assert Refusal.NOT_AUTHORISED in await refused(engine, enrollment("certified", own))
        # whose name it is now has certificates of their own
        new = await engine.enroll(enrollment("code", ALICE))
        assert isinstance(new, IssuedCertificate)
        theirs = enrollment("code", ClientCertificateEvidence(new.der), renewal_of=new.der)
        assert isinstance(await engine.enroll(theirs), IssuedCertificate)


@pytest.mark.parametrize("fetched", [False, True])
async def test_what_officers_agreed_to_is_not_for_whoever_has_the_name_of_the_account_later(
    tmp_path: Path, fetched: bool
) -> None:
    """Where this server makes the key, both ask for the very same."""
    clock = FakeClock()
    async with opened(tmp_path, clock=clock) as engine:
        made_here = ProofOfPossession(ProofKind.GENERATED_HERE, verified=True)
        request = attrs.evolve(enrollment("held", ALICE, name="alice"), proof=made_here)
        first = await engine.enroll(request)
        assert isinstance(first, Pending)
        await approve(engine, first.request_number)
        if fetched:
            assert isinstance(await engine.enroll(request), IssuedCertificate)
        clock.advance(timedelta(hours=2))
        await engine.accounts.delete("alice", by="tester")
        await engine.accounts.create("alice", GOOD, groups=STAFF, by="tester")
        theirs = attrs.evolve(enrollment("held", ALICE, name="alice"), proof=made_here)
        second = await engine.enroll(theirs)
        assert isinstance(second, Pending)
        assert second.request_number != first.request_number
        assert await engine.enroll(theirs) == second
        await approve(engine, second.request_number)
        made = await engine.enroll(theirs)
        assert isinstance(made, IssuedCertificate)
        assert x509.load_der_x509_certificate(made.der).public_key() == theirs.public_key
