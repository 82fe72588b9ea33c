"""Challenges that another service gave out, over SCEP: an MDM with Intune's interface, and a webhook."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asn1crypto import core
from cryptography import x509

from pkiserver.runtime.services.outward import OutwardPublishing
from pkiserver.store.authority import templates
from tests.protocols.scep.device import CERT_POLL, FAILURE, PENDING, Device
from tests.protocols.scep.support import World, template, world
from tests.support.mdm import CLIENT_ID, CLIENT_SECRET, Mdm
from tests.support.webhook import SECRET, Webhook

BY = '[[evidence]]\nall = ["shared_secret"]\nconnectors = ["{}"]\n'
INTUNE = """
name = "mdm"
kind = "connector"
[intune]
url = "http://127.0.0.1:{port}/scep"
token_url = "http://127.0.0.1:{port}/token"
client_id = "{client}"
client_secret = "env:MDM_SECRET"
"""
HOOK = """
name = "hook"
kind = "connector"
[webhook]
url = "http://127.0.0.1:{port}/"
secret = "env:HOOK_SECRET"
"""


@pytest.fixture(scope="module")
def mdm() -> Iterator[Mdm]:
    service = Mdm({"C-1": "phone-1", "C-2": "phone-2", "C-3": "phone-3"})
    yield service
    service.close()


@pytest.fixture(scope="module")
def decision() -> dict[str, Any]:
    return {"decision": "pending", "retry_after": 5}


@pytest.fixture(scope="module")
def hook(decision: dict[str, Any]) -> Iterator[Webhook]:
    service = Webhook(lambda question: {"decision": "no"} if question.get("challenge") == "wrong" else decision)
    yield service
    service.close()


@pytest.fixture(scope="module")
def scep(
    tmp_path_factory: pytest.TempPathFactory, on_reactor: Callable[[Any], Any], mdm: Mdm, hook: Webhook
) -> Iterator[World]:
    texts = dict(
        (
            template("phones", BY.format("mdm")),
            template("slow-phones", BY.format("mdm") + "approval = true\n"),
            template("hooked", BY.format("hook")),
            template("other"),
        )
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MDM_SECRET", CLIENT_SECRET)
        patched.setenv("HOOK_SECRET", SECRET)
        with world(tmp_path_factory.mktemp("services"), on_reactor, texts) as made:
            for name, text in (
                ("mdm", INTUNE.format(port=mdm.port, client=CLIENT_ID)),
                ("hook", HOOK.format(port=hook.port)),
            ):
                now = made.engine.clock.now()
                made.one(
                    made.engine.database.write(
                        lambda c, n=name, t=text, at=now: templates.put(
                            c, n, t, now=at, expected=None, kind="connector"
                        )
                    )
                )
            made.one(made.engine.refresh())
            assert made.engine.connectors.problems() == ()
            yield made


def poll(device: Device) -> Any:
    """A CertPoll: issuer and subject in an envelope that the server does not open."""
    return device.ask(CERT_POLL, device.envelope(core.OctetString(b"nobody reads this").dump()))


def told(scep: World, mdm: Mdm, transaction: str) -> tuple[str, dict[str, Any]]:
    """The one thing that the service was told of a transaction, after a process has seen to it twice."""
    for _ in range(2):
        publishing = OutwardPublishing(scep.engine, "a process")
        scep.one(publishing.run_due())
        while publishing.busy:
            time.sleep(0.01)
    [(name, about)] = [
        (name, about)
        for name, about in mdm.calls
        if name != "validateRequest" and about["transactionId"] == transaction
    ]
    return name, about


def requester(scep: World, certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    found = scep.one(scep.port.known(certificate.public_bytes(Encoding.DER)))
    return str(found.requester)


def test_an_mdm_is_asked_with_the_request_and_told_what_came_of_it(scep: World, mdm: Mdm) -> None:
    device = scep.device("phone-1", at="phones")
    (certificate,) = device.certificates(device.enroll("C-1"))
    assert requester(scep, certificate) == "mdm:CN=phone-1"
    action, success = told(scep, mdm, device.transaction)
    assert action == "successNotification"
    assert success["certificateSerialNumber"] == f"{certificate.serial_number:x}".upper()
    # the challenge of one in the request of another, and a guess
    for name, challenge in (("administrator", "C-1"), ("phone-1", "guess")):
        answer = scep.device(name, at="phones").enroll(challenge)
        assert (answer.status, "wrong" in answer.fail_text) == (FAILURE, True)
    # good for the service, refused by the template, which takes RSA and host names only
    odd = scep.device("phone-2", at="phones")
    assert odd.enroll("C-2", extensions="subjectAltName=DNS:*.example").status == FAILURE
    action, failure = told(scep, mdm, odd.transaction)
    assert (action, "*.example" in failure["errorDescription"]) == ("failureNotification", True)


def test_what_an_mdm_has_let_in_waits_for_an_officer_and_is_fetched_by_polling(scep: World, mdm: Mdm) -> None:
    device = scep.device("phone-3", at="slow-phones")
    assert device.enroll("C-3").status == PENDING
    assert poll(device).status == PENDING
    [waiting] = [one for one in scep.one(scep.engine.approvals.list_page()) if one.template == "slow-phones"]
    assert waiting.csr is None, "the challenge is in it"
    assert b"C-3" not in waiting.payload, "it is sealed"
    scep.one(scep.engine.approvals.decide(waiting.id, approved=True, by="officer"))
    (certificate,) = device.certificates(poll(device))
    assert requester(scep, certificate) == "mdm:CN=phone-3"
    assert device.certificates(poll(device)) == [certificate], "and again for whoever asks again"
    action, success = told(scep, mdm, device.transaction)
    assert (action, success["certificateSerialNumber"]) == (
        "successNotification",
        f"{certificate.serial_number:x}".upper(),
    )


def test_a_webhook_decides_later_and_is_asked_again_at_each_poll(
    scep: World, hook: Webhook, decision: dict[str, Any]
) -> None:
    device = scep.device("router-1", at="hooked")
    assert scep.device("router-1", at="hooked").enroll("wrong").status == FAILURE
    assert device.enroll("secret of router-1").status == PENDING
    assert hook.questions[-1]["challenge"] == "secret of router-1"
    assert poll(device).status == PENDING
    asked = hook.questions[-1]
    assert (asked["poll"], asked["name"], asked["template"]) == (device.transaction, "CN=router-1", "hooked")
    assert not {"challenge", "csr", "password"} & set(asked)
    assert hooked(scep) == ["pending"]
    decision["decision"] = "no"
    assert poll(device).status == FAILURE
    assert hooked(scep) == ["denied"]
    decision["decision"] = "pending"
    assert poll(device).status == PENDING
    assert hooked(scep) == ["pending", "denied"]
    decision["decision"] = "yes"
    (certificate,) = device.certificates(poll(device))
    assert requester(scep, certificate) == "hook:CN=router-1"
    assert device.certificates(poll(device)) == [certificate]
    assert hooked(scep) == ["issued", "denied"]
    stranger = scep.device("router-1", at="hooked")
    stranger.transaction = device.transaction
    assert poll(stranger).status == FAILURE, "the poll is signed by another key"


def hooked(scep: World) -> list[str]:
    """The states of the requests of the template that asks a webhook, the newest first."""
    kept = scep.one(scep.engine.approvals.list_page(state=None))
    return [str(one.state) for one in kept if one.template == "hooked"]


def test_a_template_that_does_not_name_the_service_does_not_ask_it(scep: World, mdm: Mdm) -> None:
    before = len(mdm.calls)
    assert scep.device("phone-1", at="other").enroll("C-1").status == FAILURE
    assert len(mdm.calls) == before
