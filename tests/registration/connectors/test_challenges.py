"""Challenges that a service gave out: an MDM's with Intune's interface, and a webhook's; through the gate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet import reactor as _reactor
from twisted.internet.task import deferLater

from pkiserver.authority.csr import parse_request
from pkiserver.authority.profile import parse_name
from pkiserver.authority.requests import ChallengeEvidence, EnrollmentRequest, IssuedCertificate
from pkiserver.foundation.errors import Refusal, Rejected, Unavailable
from pkiserver.foundation.secret import Secret
from pkiserver.runtime.engine import Engine
from pkiserver.store import templates
from tests.support.engines import engine_with, enrollment, template_text
from tests.support.mdm import CLIENT_ID, CLIENT_SECRET, Mdm
from tests.support.webhook import SECRET, Webhook

reactor: Any = _reactor
RULE = '[[evidence]]\nall = ["shared_secret"]\nconnectors = ["mdm"]\n'
STATIC = '[[evidence]]\nall = ["shared_secret"]\n'
TEXTS = {"phones": template_text("phones", RULE), "other": template_text("other", STATIC)}


@asynccontextmanager
async def opened(folder: Path, connector: str) -> AsyncIterator[Engine]:
    async with engine_with(folder, TEXTS) as engine:
        now = engine.clock.now()
        await engine.database.write(
            lambda c: templates.put(c, "mdm", connector, now=now, expected=None, kind="connector")
        )
        await engine.connectors.refresh()
        assert engine.connectors.problems() == ()
        yield engine


def asked(name: str, challenge: str, template: str = "phones", host: str | None = None) -> EnrollmentRequest:
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
        request, public_key=parsed.public_key, spki=parsed.spki, wishes=parsed.wishes, csr=csr, transaction_id="T-1"
    )


async def refusals(engine: Engine, request: EnrollmentRequest) -> set[Refusal]:
    with pytest.raises(Rejected) as caught:
        await engine.enroll(request)
    return {reason.code for reason in caught.value.reasons}


async def told(mdm: Mdm, action: str) -> dict[str, Any]:
    """What the service was told in the background."""
    for _ in range(100):
        found = [request for name, request in mdm.calls if name == action]
        if found:
            return found[-1]
        await deferLater(reactor, 0.02)
    raise AssertionError(mdm.calls)


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


async def test_an_mdm_validates_and_is_told_what_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDM_SECRET", CLIENT_SECRET)
    mdm = Mdm({"C-1": "phone-1", "C-2": "phone-2"})
    try:
        async with opened(tmp_path, intune(mdm.port)) as engine:
            made = await engine.enroll(asked("phone-1", "C-1"))
            assert isinstance(made, IssuedCertificate)
            success = await told(mdm, "successNotification")
            assert success["certificateSerialNumber"] == f"{made.serial:x}".upper()
            assert (success["transactionId"], success["issuingCertificateAuthority"]) == ("T-1", "issuing")
            # row 4 (VU#971035): a challenge that was given out for one is no good for another
            assert await refusals(engine, asked("admin", "C-1")) == {Refusal.NOT_AUTHENTICATED}
            assert await refusals(engine, asked("phone-1", "guess")) == {Refusal.NOT_AUTHENTICATED}
            # good for the service, refused by the template: the service learns why
            assert Refusal.BAD_NAME in await refusals(engine, asked("phone-2", "C-2", host="not_a_host"))
            failure = await told(mdm, "failureNotification")
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
    finally:
        mdm.close()


async def test_what_a_check_of_an_mdm_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mdm = Mdm({})
    try:
        async with opened(tmp_path, intune(mdm.port)) as engine:
            for secret, expected in ((CLIENT_SECRET, "fine"), ("wrong", "bad answer")):
                monkeypatch.setenv("MDM_SECRET", secret)
                [found] = await engine.connectors.check("mdm", None, None)
                assert str(found.step) == expected
            monkeypatch.delenv("MDM_SECRET")
            [found] = await engine.connectors.check("mdm", None, None)
            assert str(found.step) == "settings"
    finally:
        mdm.close()


async def test_a_webhook_validates_a_challenge_with_its_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)

    def decide(question: dict[str, Any]) -> dict[str, Any]:
        return {"decision": "yes" if question["challenge"] == "C-1" else "no", "groups": ["phones"]}

    hook = Webhook(decide)
    text = f'name = "mdm"\nkind = "connector"\n[webhook]\nurl = "http://127.0.0.1:{hook.port}/"\n'
    try:
        async with opened(tmp_path, text + 'secret = "env:HOOK_SECRET"\n') as engine:
            made = await engine.enroll(asked("phone-1", "C-1"))
            assert isinstance(made, IssuedCertificate)
            [question] = hook.questions
            assert {"challenge", "csr", "template", "transaction"} <= set(question)
            assert "password" not in question
            assert await refusals(engine, asked("phone-1", "wrong")) == {Refusal.NOT_AUTHENTICATED}
    finally:
        hook.close()
