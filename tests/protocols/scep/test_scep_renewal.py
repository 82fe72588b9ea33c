"""Renewal, as clients old and new ask for it."""

from __future__ import annotations

import secrets

import pytest
from sqlalchemy import update

from pkiserver.foundation.secret import Secret
from pkiserver.store.certificates import CertificateState, RevocationReason
from pkiserver.store.schema.certificates import certificate as certificate_table
from tests.protocols.scep.device import BAD_REQUEST, FAILURE, PKCS_REQ, RENEWAL_REQ, SUCCESS
from tests.protocols.scep.support import STATIC, World, enrolled, record, set_state, template


def test_renewal_with_another_key_and_with_the_same(scep: World) -> None:
    device, old = enrolled(scep, "renewing")
    device.use(old)
    device.new_key("second")
    envelope = device.envelope(device.csr(key="second"))
    message = device.message(RENEWAL_REQ, envelope)
    (new,) = device.certificates(device.read(device.post(message)))
    assert (new.subject, new.public_key() == old.public_key()) == (old.subject, False)
    assert device.certificates(device.read(device.post(message))) == [new], "the same message, the same certificate"
    (same,) = device.certificates(device.ask(RENEWAL_REQ, device.envelope(device.csr()), transaction="same-key"))
    assert same.public_key() == old.public_key()
    found = record(scep, old)
    assert found.state is CertificateState.ISSUED


def test_renewal_that_wants_a_new_key_and_revokes_the_old_certificate(scep: World) -> None:
    device, old = enrolled(scep, "fresh", "fresh-key")
    device.use(old)
    assert "new key" in device.ask(RENEWAL_REQ, device.envelope(device.csr()), transaction="one").fail_text
    device.new_key("second")
    message = device.message(RENEWAL_REQ, device.envelope(device.csr(key="second")))
    (new,) = device.certificates(device.read(device.post(message)))
    found = record(scep, old)
    assert (found.state, found.revocation.reason) == (CertificateState.REVOKED, RevocationReason.SUPERSEDED)
    assert device.certificates(device.read(device.post(message))) == [new], "its answer was lost: it comes again"


def test_old_clients_renew_with_pkcsreq(scep: World) -> None:
    device, old = enrolled(scep, "old-style")
    device.use(old)
    device.new_key("second")
    (new,) = device.certificates(device.ask(PKCS_REQ, device.envelope(device.csr(key="second"))))
    assert new.subject == old.subject


@pytest.mark.parametrize("challenge", ["a code that is spent", "the static challenge"])
def test_clients_that_keep_their_challenge_and_make_the_transaction_id_of_their_key_renew(
    scep: World, challenge: str
) -> None:
    """certmonger sends what it sent first, signed with what it got, and asks for the usages that it got, too."""
    at = "device"
    if challenge == "the static challenge":
        at = f"kept-{secrets.token_hex(2)}"
        hashed = scep.one(scep.engine.gate.identifier.hasher.hash(Secret("everybody knows")))
        scep.put(*template(at, STATIC, scep=f'static_challenge = "{hashed}"'))
    kept = scep.code() if at == "device" else "everybody knows"
    device = scep.device("keeping", at=at)
    (first,) = device.certificates(device.enroll(kept))
    device.use(first)
    ask = device.message(PKCS_REQ, device.envelope(device.csr(kept, extensions="keyUsage=digitalSignature")))
    (second,) = device.certificates(device.read(device.post(ask)))
    assert (second.subject, second.serial_number == first.serial_number) == (first.subject, False)
    assert device.certificates(device.read(device.post(ask))) == [second], "its answer was lost: it comes again"
    device.use(second)
    (third,) = device.certificates(device.enroll(kept))
    assert third.serial_number not in {first.serial_number, second.serial_number}
    assert record(scep, third).requester == record(scep, first).requester
    refused = device.enroll(kept, subject="CN=somebody else")
    assert (refused.status, "stands for another request" in refused.fail_text) == (FAILURE, True)
    set_state(scep, third, CertificateState.REVOKED)
    device.use(third)
    assert device.enroll(kept, extensions="keyUsage=digitalSignature").status == FAILURE


def test_a_code_that_is_good_is_spent_whoever_signs(scep: World) -> None:
    device, old = enrolled(scep, "more")
    device.use(old)
    code = scep.code()
    device.transaction = secrets.token_hex(8)
    (new,) = device.certificates(device.enroll(code))
    assert record(scep, new).requester != record(scep, old).requester
    assert "used or has expired" in scep.device("late").enroll(code).fail_text


def test_renewal_outside_the_window(scep: World) -> None:
    device, old = enrolled(scep, "early", "late")
    device.use(old)
    answer = device.ask(RENEWAL_REQ, device.envelope(device.csr()))
    assert (answer.status, answer.fail_info) == (FAILURE, BAD_REQUEST)
    assert "can be renewed from" in answer.fail_text


@pytest.mark.parametrize(("at", "brings"), [("graceful", True), ("device", False)])
def test_an_expired_certificate_is_renewed_within_its_grace(scep: World, at: str, brings: bool) -> None:
    device, old = enrolled(scep, "expired", at)
    found = record(scep, old)
    table = certificate_table
    start = found.not_before.timestamp() - 91 * 86400
    values = {"not_before": int(start * 1e6), "not_after": int((start + 90 * 86400) * 1e6)}
    change = update(table).where(table.c.id == found.id).values(**values)
    scep.one(scep.engine.database.write(lambda c: c.execute(change).rowcount))
    device.use(old)
    device.new_key("second")
    answer = device.ask(RENEWAL_REQ, device.envelope(device.csr(key="second")))
    assert (answer.status == SUCCESS) is brings, answer.fail_text
    assert brings or "expired" in answer.fail_text
