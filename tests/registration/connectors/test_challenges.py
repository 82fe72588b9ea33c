"""Challenges that a service gave out: an MDM's with Intune's interface, and a webhook's; through the gate."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Connection
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from pkiserver.authority.csr import parse_request
from pkiserver.authority.lifecycle.profile import parse_name
from pkiserver.authority.requests import (
    ChallengeEvidence,
    ClientCertificateEvidence,
    EnrollmentRequest,
    IssuedCertificate,
    ResumedEvidence,
)
from pkiserver.authority.status.turns import Turns
from pkiserver.foundation.clock import Clock
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.registration.approvals import Pending
from pkiserver.runtime.engine import Engine, open_engine
from pkiserver.runtime.services.outward import OutwardPublishing
from pkiserver.runtime.services.upkeep import clean
from pkiserver.store.authority import templates
from tests.support.clock import FakeClock
from tests.support.engines import engine_with, enrollment, template_text
from tests.support.mdm import CLIENT_ID, CLIENT_SECRET, Mdm
from tests.support.webhook import SECRET, Webhook

reactor: Any = _reactor
RULE = '[[evidence]]\nall = ["shared_secret"]\nconnectors = ["mdm"]\n'
STATIC = '[[evidence]]\nall = ["shared_secret"]\n'
FIXED = '[[subject.parts]]\nattribute = "organization"\nfrom = "fixed"\nvalue = "Example"\n'
CHALLENGE_OR_CERTIFICATE = RULE + '[[evidence]]\nall = ["client_certificate"]\n'
TEXTS = {
    "phones": template_text("phones", RULE),
    "slow": template_text("slow", RULE + 'approval = true\napproval_lifetime = "1h"\n'),
    "other": template_text("other", STATIC),
    "seated": template_text("seated", RULE, f"[seats]\nenabled = true\ncertificates = 1\n{FIXED}"),
    "later": template_text("later", CHALLENGE_OR_CERTIFICATE),
    "both": template_text("both", RULE.replace('"shared_secret"', '"shared_secret", "client_certificate"')),
}


@asynccontextmanager
async def opened(
    folder: Path, connector: str, *, url: str | None = None, clock: Clock | None = None
) -> AsyncIterator[Engine]:
    async with engine_with(folder, TEXTS, url=url, clock=clock) as engine:
        now = engine.clock.now()
        await engine.database.write(
            lambda c: templates.put(c, "mdm", connector, now=now, expected=None, kind="connector")
        )
        await engine.connectors.refresh()
        assert engine.connectors.problems() == ()
        yield engine


def asked(
    name: str, challenge: str, template: str = "phones", host: str | None = None, transaction: str = "T-1"
) -> EnrollmentRequest:
    """What SCEP makes of a PKCSReq."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(parse_name(f"CN={name}"))
    builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
    if host is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    csr = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
    parsed = parse_request(csr)
    request = enrollment(template, ChallengeEvidence(Secret(challenge)))
    return attrs.evolve(
        request,
        public_key=parsed.public_key,
        spki=parsed.spki,
        wishes=parsed.wishes,
        csr=csr,
        transaction_id=transaction,
    )


async def refusals(engine: Engine, request: EnrollmentRequest) -> set[Refusal]:
    with pytest.raises(Rejected) as caught:
        await engine.enroll(request)
    return {reason.code for reason in caught.value.reasons}


async def report(engine: Engine) -> None:
    """Let a process bring what stands in the queue, once."""
    publishing = OutwardPublishing(engine, "a process")
    await publishing.run_due()
    while publishing.busy:
        await deferLater(reactor, 0.01)


@pytest.fixture
def mdm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mdm]:
    """A service that has given out the challenges C-0 to C-4, for the devices phone-0 to phone-4."""
    monkeypatch.setenv("MDM_SECRET", CLIENT_SECRET)
    service = Mdm({f"C-{number}": f"phone-{number}" for number in range(5)})
    yield service
    service.close()


def told(mdm: Mdm) -> list[tuple[str, str]]:
    """All that the service was told: what, and of which transaction."""
    return [(name, about["transactionId"]) for name, about in mdm.calls if name != "validateRequest"]


def intune(port: int, secret: str = "env:MDM_SECRET") -> str:
    return f"""
name = "mdm"
kind = "connector"
[intune]
url = "http://127.0.0.1:{port}/scep"
token_url = "http://127.0.0.1:{port}/token"
client_id = "{CLIENT_ID}"
client_secret = "{secret}"
"""


async def test_an_mdm_validates_and_is_told_what_came_of_it(tmp_path: Path, mdm: Mdm) -> None:
    async with opened(tmp_path, intune(mdm.port)) as engine:
        made = await engine.enroll(asked("phone-1", "C-1"))
        assert isinstance(made, IssuedCertificate)
        await report(engine)
        [success] = [about for name, about in mdm.calls if name == "successNotification"]
        assert success["certificateSerialNumber"] == f"{made.serial:x}".upper()
        assert (success["transactionId"], success["issuingCertificateAuthority"]) == ("T-1", "issuing")
        # VU#971035: a challenge that was given out for one is no good for another
        assert await refusals(engine, asked("admin", "C-1")) == {Refusal.NOT_AUTHENTICATED}
        assert await refusals(engine, asked("phone-1", "guess")) == {Refusal.NOT_AUTHENTICATED}
        # good for the service, refused by the template: the service learns why
        assert Refusal.BAD_NAME in await refusals(engine, asked("phone-2", "C-2", host="not_a_host"))
        await report(engine)
        [failure] = [about for name, about in mdm.calls if name == "failureNotification"]
        assert "not_a_host" in failure["errorDescription"]
        # a token that was withdrawn is had anew; a service that is away is no refusal
        mdm.tokens.clear()
        assert isinstance(await engine.enroll(asked("phone-1", "C-1")), IssuedCertificate)
        mdm.status = 500
        with pytest.raises(Unavailable, match="status 500"):
            await engine.enroll(asked("phone-1", "C-1"))
        # a template without the connector does not ask it
        before = len(mdm.calls)
        assert await refusals(engine, asked("phone-1", "C-1", "other")) == {Refusal.NOT_AUTHENTICATED}
        assert len(mdm.calls) == before


async def test_an_mdm_is_told_of_a_request_that_lacked_something_else(tmp_path: Path, mdm: Mdm) -> None:
    async with opened(tmp_path, intune(mdm.port)) as engine:
        # its challenge was good, and the template's rule wants a certificate beside it
        assert Refusal.NOT_AUTHENTICATED in await refusals(engine, asked("phone-1", "C-1", "both"))
        await report(engine)
        assert told(mdm) == [("failureNotification", "T-1")]


def poll_of(request: EnrollmentRequest) -> EnrollmentRequest:
    """What SCEP makes of a CertPoll for it: neither challenge nor CSR come again."""
    name = f"mdm:{request.wishes.subject.rfc4514_string() if request.wishes.subject else ''}"
    return attrs.evolve(request, csr=None, evidence=(ResumedEvidence(name, request.transaction_id or ""),))


async def test_an_mdm_is_told_once_of_what_officers_decided_and_polls_fetched(
    tmp_path: Path, mdm: Mdm, empty_url: str
) -> None:
    clock = FakeClock()
    requests = [asked(f"phone-{number}", f"C-{number}", "slow", transaction=f"T-{number}") for number in range(4)]
    async with opened(tmp_path, intune(mdm.port), url=empty_url, clock=clock) as engine:
        numbers = []
        for request in requests:
            waiting = await engine.enroll(request)
            assert isinstance(waiting, Pending)
            numbers.append(waiting.request_number)
            assert isinstance(await engine.enroll(poll_of(request)), Pending)
        await engine.approvals.decide(numbers[0], approved=True, by="officer")
        await engine.approvals.decide(numbers[1], approved=False, by="officer", reason="not this one")
        await engine.approvals.decide(numbers[2], approved=True, by="officer")
        mdm.status = 503  # the service is away while the certificate is fetched
        made = await engine.enroll(poll_of(requests[0]))
        assert isinstance(made, IssuedCertificate)
        await report(engine)
        settings = engine.settings
    assert told(mdm) == []
    mdm.status = 200
    clock.advance(timedelta(minutes=2))
    async with open_engine(settings, clock=clock) as restarted:
        for _ in range(3):
            await report(restarted)
            assert await restarted.enroll(poll_of(requests[0])) == made
        with pytest.raises(Rejected, match="not this one"):
            await restarted.enroll(poll_of(requests[1]))
        assert sorted(told(mdm)) == [("failureNotification", "T-1"), ("successNotification", "T-0")]
        success = next(about for name, about in mdm.calls if name == "successNotification")
        assert success["certificateSerialNumber"] == f"{made.serial:x}".upper()
        assert success["certificateRequest"] == base64.b64encode(requests[0].csr or b"").decode()
        # neither the third, which was agreed to and never fetched, nor the fourth, which nobody looked at
        clock.advance(timedelta(hours=2))
        await clean(restarted, Turns(restarted.database, clock, "cleaner"))
        await report(restarted)
        assert sorted(told(mdm))[:3] == [("failureNotification", f"T-{number}") for number in (1, 2, 3)]
        rows = await restarted.approvals.list_page(state=None)
        assert not [one for one in rows if b"sealed" in one.payload], "what was told of is not kept"


async def test_the_loser_of_two_equal_requests_is_no_failure_to_an_mdm(tmp_path: Path, mdm: Mdm) -> None:

    class Taken:
        def take(self, connection: Connection, certificate_id: int) -> None:
            raise Rejected.because(Refusal.CONFLICT, "this transaction is being answered already; ask again")

        def give_back(self, connection: Connection, certificate_id: int) -> None:
            pass

    async with opened(tmp_path, intune(mdm.port)) as engine:
        with pytest.raises(Rejected, match="being answered"):
            await engine.enroll(asked("phone-1", "C-1"), claims=(Taken(),))
        assert isinstance(await engine.enroll(asked("phone-1", "C-1")), IssuedCertificate)
        await report(engine)
        assert told(mdm) == [("successNotification", "T-1")]


async def test_what_a_check_of_an_mdm_tells(tmp_path: Path, mdm: Mdm, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path, intune(mdm.port)) as engine:
        for secret, expected in ((CLIENT_SECRET, "fine"), ("wrong", "bind refused")):
            monkeypatch.setenv("MDM_SECRET", secret)
            [found] = await engine.connectors.check("mdm", None, None)
            assert str(found.step) == expected
        monkeypatch.delenv("MDM_SECRET")
        [found] = await engine.connectors.check("mdm", None, None)
        assert str(found.step) == "settings"


async def test_an_answer_without_a_verdict_is_no_wrong_challenge(tmp_path: Path, mdm: Mdm) -> None:
    async with opened(tmp_path, intune(mdm.port)) as engine:
        mdm.status = 204
        with pytest.raises(Unavailable, match="does not say what"):
            await engine.enroll(asked("phone-1", "C-1"))
        mdm.status = 200
        assert isinstance(await engine.enroll(asked("phone-1", "C-1")), IssuedCertificate)


@asynccontextmanager
async def hooked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, decide: Callable[[dict[str, Any]], dict[str, Any]]
) -> AsyncIterator[tuple[Engine, Webhook]]:
    """An engine whose connector ``mdm`` is a webhook, and that."""
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    hook = Webhook(decide)
    text = f'name = "mdm"\nkind = "connector"\n[webhook]\nurl = "http://127.0.0.1:{hook.port}/"\n'
    try:
        async with opened(folder, f'{text}secret = "env:HOOK_SECRET"\n') as engine:
            yield engine, hook
    finally:
        hook.close()


async def test_a_webhook_validates_a_challenge_with_its_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def decide(question: dict[str, Any]) -> dict[str, Any]:
        return {"decision": "yes" if question["challenge"] == "C-1" else "no", "groups": ["phones"]}

    async with hooked(tmp_path, monkeypatch, decide) as (engine, hook):
        made = await engine.enroll(asked("phone-1", "C-1"))
        assert isinstance(made, IssuedCertificate)
        [question] = hook.questions
        assert {"challenge", "csr", "template", "transaction"} <= set(question)
        assert "password" not in question
        sent = x509.load_der_x509_csr(base64.b64decode(question["csr"]))
        assert sent.subject == x509.load_der_x509_certificate(made.der).subject
        assert (sent.is_signature_valid, question["template"], question["transaction"]) == (True, "phones", "T-1")
        assert await refusals(engine, asked("phone-1", "wrong")) == {Refusal.NOT_AUTHENTICATED}


async def test_a_challenges_seat_goes_by_the_certificates_subject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service shows nobody by name: what a request says beside the subject is no second seat."""
    async with hooked(tmp_path, monkeypatch, lambda _: {"decision": "yes"}) as (engine, _):
        assert isinstance(await engine.enroll(asked("phone", "right", "seated")), IssuedCertificate)
        assert await refusals(engine, asked("phone,O=Example", "right", "seated")) == {Refusal.LIMIT}
        assert [one.identity for one in await engine.seats.search()] == ["CN=phone,O=Example"]


async def test_who_renews_what_a_challenge_brought_has_the_seat_of_who_shows_a_challenge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates from before the template had seats, and those that are shown for another, are in none yet."""
    async with hooked(tmp_path, monkeypatch, lambda _: {"decision": "yes"}) as (engine, _):
        names = ("renews", "enrols")
        old = [(await issued(engine, asked(name, "right", "later"))).der for name in names]
        known = await engine.database.read(lambda c: templates.get(c, "later"))
        assert known is not None
        seated = template_text("later", CHALLENGE_OR_CERTIFICATE, "[seats]\nenabled = true\ncertificates = 1\n")
        now = engine.clock.now()
        await engine.database.write(lambda c: templates.put(c, "later", seated, now=now, expected=known.revision))
        await engine.refresh()
        for name, der, renewed in zip(names, old, (old[0], None), strict=True):
            shown = ClientCertificateEvidence(der)
            await issued(engine, enrollment("later", shown, name=name, renewal_of=renewed))
            assert await refusals(engine, asked(name, "right", "later")) == {Refusal.LIMIT}
        assert {one.identity for one in await engine.seats.search()} == {"CN=renews", "CN=enrols"}


async def test_the_owner_of_a_seat_decides_nothing_for_it_in_place_of_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hooked(tmp_path, monkeypatch, lambda _: {"decision": "pending", "retry_after": 60}) as (engine, _):
        await engine.seats.create("seated", "CN=phone,O=Example", owner="rita", by="tester")
        waiting = await engine.enroll(asked("phone", "right", "seated"))
        assert isinstance(waiting, Pending)
        with pytest.raises(Rejected) as caught:
            await engine.approvals.decide(waiting.request_number, approved=True, by="cli:rita")
        assert caught.value.has(Refusal.NOT_AUTHORISED)
        await engine.approvals.decide(waiting.request_number, approved=True, by="cli:bob")


async def issued(engine: Engine, request: EnrollmentRequest) -> IssuedCertificate:
    made = await engine.enroll(request)
    assert isinstance(made, IssuedCertificate)
    return made
